//! One conversation over many roads, under chaos. Two or three networks, each with faults of its own; every agent with a policy
//! of its own; at the end one road heals, and the others stay as they are. Falsified as `session_chaos` is, and by copies
//! beyond the budget of hedging.

use ifmesh_tests::chaos::{Mix, play, routed_stories};
use proptest::{prelude::*, test_runner::FileFailurePersistence};

const CALM: Mix = Mix {
    weather: 2,
    partitions: 2,
    deaths: 1,
    slowness: 1,
    attacks: 1,
};

fn config() -> ProptestConfig {
    let given = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if given { default.cases } else { 1_250 },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/router_chaos.regressions",
        ))),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn under_weather(story in routed_stories(Mix { weather: 8, ..CALM })) {
        play(&story);
    }

    #[test]
    fn under_partitions(story in routed_stories(Mix { partitions: 8, ..CALM })) {
        play(&story);
    }

    #[test]
    fn under_deaths(story in routed_stories(Mix { deaths: 8, ..CALM })) {
        play(&story);
    }

    #[test]
    fn under_everything(story in routed_stories(Mix { weather: 5, partitions: 5, deaths: 5, slowness: 5, attacks: 5 })) {
        play(&story);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..config() })]

    /// The same story twice: byte for byte the same traces.
    #[test]
    fn a_story_repeats(story in routed_stories(Mix { weather: 5, deaths: 4, partitions: 4, ..CALM })) {
        prop_assert_eq!(play(&story), play(&story));
    }
}
