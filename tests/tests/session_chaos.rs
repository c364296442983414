//! The session under chaos. Falsified by a message that is delivered twice, out of order, forged, or never sent; by an outcome
//! that is not true; by a reliable message of a live sender that is neither delivered nor refused; by a session that keeps more
//! than its limits allow, or that goes on talking when all is said.
//!
//! It cannot pass by accident: each promise is judged against what applications got and what disks held, not against what
//! sessions say of themselves.

use ifmesh_tests::chaos::{Mix, play, stories};
use proptest::{prelude::*, test_runner::FileFailurePersistence};

const CALM: Mix = Mix {
    weather: 1,
    partitions: 1,
    deaths: 1,
    slowness: 1,
    attacks: 1,
};

fn config() -> ProptestConfig {
    let given = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if given { default.cases } else { 500 },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/session_chaos.regressions",
        ))),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn under_weather(story in stories(Mix { weather: 8, slowness: 3, ..CALM })) {
        play(&story);
    }

    #[test]
    fn under_partitions(story in stories(Mix { partitions: 8, weather: 2, ..CALM })) {
        play(&story);
    }

    #[test]
    fn under_deaths(story in stories(Mix { deaths: 8, weather: 2, ..CALM })) {
        play(&story);
    }

    #[test]
    fn under_attack(story in stories(Mix { attacks: 10, deaths: 2, ..CALM })) {
        play(&story);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..config() })]

    /// The same story twice: byte for byte the same trace.
    #[test]
    fn a_story_repeats(story in stories(Mix { weather: 5, deaths: 4, attacks: 4, ..CALM })) {
        let (once, again) = (play(&story), play(&story));
        let differs = once[0].text().lines().zip(again[0].text().lines()).find(|(a, b)| a != b);
        prop_assert_eq!(differs, None);
        prop_assert_eq!(once, again);
    }
}
