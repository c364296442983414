//! One conversation over many roads, under chaos. Two or three networks, each with faults of its own; every agent with a policy
//! of its own; at the end one road heals, and the others stay as they are. Falsified as `session_chaos` is, and by copies
//! beyond the budget of hedging.
//!
//! These are few cases without much optimisation; `cargo xtask chaos` plays thousands.

use ifmesh_chaos::{cases, check, kind_named, play, stories};
use proptest::prelude::*;

#[test]
fn under_weather() {
    check("router-weather", 100);
}

#[test]
fn under_partitions() {
    check("router-partitions", 100);
}

#[test]
fn under_deaths() {
    check("router-deaths", 100);
}

#[test]
fn under_talks() {
    check("router-talks", 50);
}

#[test]
fn under_everything() {
    check("router-everything", 100);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(10), failure_persistence: None, ..ProptestConfig::default() })]

    /// The same story twice: byte for byte the same traces.
    #[test]
    fn a_story_repeats(story in stories(kind_named("router-everything"))) {
        prop_assert_eq!(play(&story), play(&story));
    }
}
