//! The session under chaos. Falsified by a message that is delivered twice, out of order, forged, or never sent; by an outcome
//! that is not true; by a reliable message of a live sender that is neither delivered nor refused; by a session that keeps more
//! than its limits allow, or that goes on talking when all is said.
//!
//! It cannot pass by accident: each promise is judged against what applications got and what disks held, not against what
//! sessions say of themselves. `cargo xtask mutants` breaks the code on purpose, and every break must be seen.

use ifmesh_chaos::{cases, check, kind_named, play, stories};
use proptest::prelude::*;

#[test]
fn under_weather() {
    check("session-weather", 200);
}

#[test]
fn under_partitions() {
    check("session-partitions", 200);
}

#[test]
fn under_deaths() {
    check("session-deaths", 200);
}

#[test]
fn under_attack() {
    check("session-attack", 200);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(20), failure_persistence: None, ..ProptestConfig::default() })]

    /// The same story twice: byte for byte the same trace.
    #[test]
    fn a_story_repeats(story in stories(kind_named("session-deaths"))) {
        let (once, again) = (play(&story), play(&story));
        let differs = once[0].text().lines().zip(again[0].text().lines()).find(|(a, b)| a != b);
        prop_assert_eq!(differs, None);
        prop_assert_eq!(once, again);
    }
}
