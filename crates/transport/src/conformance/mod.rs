//! The suite that every backend must pass, ours or a third party's.
//!
//! A backend is judged by what its [`Capabilities`](crate::Capabilities) promise, and by what [`IfTransport`] asks of all
//! of them. To run the suite, implement [`Fixture`], then
//!
//! ```ignore
//! ifmesh_transport::conformance_tests! {
//!     #[tokio::test(start_paused = true)] // or whatever runtime the backend needs
//!     MyFixture::new()                    // evaluated once for each case
//! }
//! ```
//!
//! which makes one test of each case; or call [`run_all`], or single cases. Each case starts a mesh of its own, and its
//! documentation says what falsifies it.
//!
//! Nothing here sleeps: a case waits for events, each for as long as [`Fixture::patience`] says. So the suite runs in
//! virtual time as well as over real sockets.

mod frames;
mod lifecycle;
mod links;
mod net;
mod pressure;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ifmsg::AgentId;

use crate::IfTransport;

pub use frames::{
    best_effort_frames_arrive, concurrent_senders_lose_nothing, frame_sizes_arrive_unchanged,
    hostile_bytes_pass_unchanged, reliable_lane_keeps_order, too_large_is_refused,
};
pub use lifecycle::{
    close_ends_waiting_calls, close_flushes_then_says_goodbye, close_is_idempotent, closed_stays_closed,
    death_ends_a_waiting_send, death_is_noticed, restart_links_again,
};
pub use links::{
    broadcast_is_kept_or_refused, each_link_comes_up_once, name_and_capabilities_are_sane,
    unknown_peers_have_no_link,
};
pub use pressure::{
    best_effort_never_waits, floods_both_ways_end, recv_is_cancel_safe, send_is_cancel_safe,
    slow_receiver_presses_back, slow_receiver_stalls_nobody_else,
};

/// An agent and its transport.
#[derive(Debug, Clone)]
pub struct Member {
    /// The agent.
    pub id: AgentId,
    /// Its transport.
    pub transport: Arc<dyn IfTransport>,
}

/// How the suite makes and breaks meshes of the backend under test.
///
/// A case calls `start` once, then the others as it pleases, and drops the fixture at its end. On success it has closed
/// every transport before; after a failure the fixture's own `Drop` must clean up.
#[async_trait]
pub trait Fixture: Send {
    /// Starts this many agents, each of which can reach all others. Their links may still be on their way up; nobody may
    /// have read an event.
    async fn start(&mut self, agents: usize) -> Vec<Member>;

    /// The agent dies without a goodbye, as by `kill -9`. The suite has dropped its own handle before.
    async fn kill(&mut self, agent: &AgentId);

    /// Starts an agent again that was killed before.
    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport>;

    /// How long a single thing may take: a link to come up, a frame to arrive, a death to be noticed, a close to end. The
    /// slowest of them, with a margin, decides.
    fn patience(&self) -> Duration;

    /// Whether the medium itself can lose best-effort frames, beside those that give way in a queue and are counted.
    fn medium_loses(&self) -> bool {
        true
    }

    /// How many copies of each frame it sends by itself, as a router does over several roads at once.
    fn copies(&self) -> usize {
        1
    }

    /// How many bytes a link may accept on the reliable lane for a peer that reads nothing. More is not "bounded".
    fn most_accepted(&self) -> usize {
        64 << 20
    }
}

/// A backend broke a promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("conformance case `{case}`: expected {expected}; found {found}")]
pub struct Failure {
    /// The case, by the name of its function.
    pub case: &'static str,
    /// What the case waited for.
    pub expected: String,
    /// What came instead.
    pub found: String,
}

/// Runs all cases one after the other, each with a fixture of its own, and returns what failed.
pub async fn run_all<F: Fixture>(mut fixture: impl AsyncFnMut() -> F) -> Result<(), Vec<Failure>> {
    let mut failures = Vec::new();
    crate::conformance_tests!(@with run { fixture, failures });
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}

/// Makes one test of each conformance case: the attributes for each test function, then an expression that makes a
/// [`Fixture`](crate::conformance::Fixture).
#[macro_export]
macro_rules! conformance_tests {
    // The one list of cases.
    (@with $mode:ident $arguments:tt) => {
        $crate::conformance_tests! { @$mode $arguments
            name_and_capabilities_are_sane
            each_link_comes_up_once
            unknown_peers_have_no_link
            broadcast_is_kept_or_refused
            frame_sizes_arrive_unchanged
            too_large_is_refused
            hostile_bytes_pass_unchanged
            reliable_lane_keeps_order
            best_effort_frames_arrive
            concurrent_senders_lose_nothing
            slow_receiver_presses_back
            slow_receiver_stalls_nobody_else
            best_effort_never_waits
            floods_both_ways_end
            recv_is_cancel_safe
            send_is_cancel_safe
            close_flushes_then_says_goodbye
            close_is_idempotent
            close_ends_waiting_calls
            closed_stays_closed
            death_is_noticed
            death_ends_a_waiting_send
            restart_links_again
        }
    };
    (@tests { $attributes:tt $fixture:expr } $($case:ident)+) => {
        $($crate::conformance_tests! { @test $attributes $fixture, $case })+
    };
    (@test [$($attributes:tt)+] $fixture:expr, $case:ident) => {
        $($attributes)+
        async fn $case() {
            if let Err(failure) = $crate::conformance::$case(&mut $fixture).await {
                panic!("{failure}");
            }
        }
    };
    (@run { $fixture:ident, $failures:ident } $($case:ident)+) => {
        $(if let Err(failure) = $crate::conformance::$case(&mut $fixture().await).await {
            $failures.push(failure);
        })+
    };
    ($(#[$attribute:meta])+ $fixture:expr $(,)?) => {
        $crate::conformance_tests! { @with tests { [$(#[$attribute])+] $fixture } }
    };
}
