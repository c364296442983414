//! What a link observer hears while two agents link. Falsified by a step that is not told, is told under another name, or is told
//! with another hash than that of the description that went out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use ifmesh_transport::{IfTransport as _, LinkNotice, LinkObserver};

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<LinkNotice>>);

impl LinkObserver for Heard {
    fn on_notice(&self, transport: &str, notice: &LinkNotice) {
        assert_eq!(transport, "webrtc");
        self.0.lock().unwrap().push(notice.clone());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_link_is_told() {
    let server = server().await;
    let heard = [Arc::new(Heard::default()), Arc::new(Heard::default())];
    let mut sides = Vec::new();
    for (name, heard) in ["alice", "bob"].into_iter().zip(&heard) {
        let mut config = config(&url(&server), name, 1);
        config.observer = Some(Arc::clone(heard) as Arc<dyn LinkObserver>);
        sides.push(start(config).await);
    }
    up(&*sides[0], "bob").await;
    up(&*sides[1], "alice").await;
    exchange(&sides[0], &sides[1]).await;
    for side in &sides {
        side.close().await.unwrap();
    }
    let told = |side: usize, wanted: &dyn Fn(&LinkNotice) -> bool| {
        heard[side]
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|notice| wanted(notice))
            .count()
    };
    let connected = |notice: &LinkNotice| matches!(notice, LinkNotice::SignalingConnected { server: at } if *at == url(&server));
    for (side, other) in [(0, "bob"), (1, "alice")] {
        assert_eq!(told(side, &connected), 1);
        let open = |notice: &LinkNotice| matches!(notice, LinkNotice::ChannelOpen { peer, label: "if-agent-messaging" } if *peer == id(other));
        assert_eq!(told(side, &open), 1);
        let candidate =
            |notice: &LinkNotice| matches!(notice, LinkNotice::CandidateSent { peer } if *peer == id(other));
        assert!(told(side, &candidate) >= 1);
    }
    // Bob is the larger id.
    let offer = |notice: &LinkNotice| matches!(notice, LinkNotice::OfferCreated { .. });
    let answer = |notice: &LinkNotice| matches!(notice, LinkNotice::AnswerCreated { .. });
    assert_eq!((told(1, &offer), told(1, &answer)), (1, 0));
    assert_eq!((told(0, &offer), told(0, &answer)), (0, 1));
}
