//! Arbitrary text never kills the server, nor a registered client's connection to it beyond its allowance.
//!
//! Falsified if, after any frame, the server does not answer the next client.

mod common;

use common::*;
use proptest::{prelude::*, test_runner::FileFailurePersistence};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_is_survived(
        frames in prop::collection::vec(
            prop_oneof![
                any::<String>(),
                "\\{\"type\":\"(register|proof|offer|answer|ice-candidate)\"(,\"(agent_id|from|to|epoch|offer|candidate|signature)\":(null|1|\"a\"|\"b\"|\\{\\}|\\[\\])){0,4}\\}",
            ],
            0..8,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = start(open()).await;
            let mut noisy = Raw::connect(&server).await;
            for frame in frames {
                noisy.send(frame).await;
            }
            let mut a = Raw::connect(&server).await;
            let mut b = Raw::connect(&server).await;
            let first = a.register_plain("quiet-a").await;
            prop_assert_eq!(&first["type"], "registered");
            let second = b.register_plain("quiet-b").await;
            prop_assert_eq!(&second["type"], "registered");
            Ok(())
        })?;
    }
}
