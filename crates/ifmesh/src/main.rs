//! The `ifmesh` program.
fn main() {}
