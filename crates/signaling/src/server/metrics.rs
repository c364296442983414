//! Counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened at a server since it started. Each counter only grows, except those that say "now".
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct ServerMetrics {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            /// Each counter by itself is exact; together they are not from one instant.
            pub(super) fn snapshot(&self) -> ServerMetrics {
                ServerMetrics { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Sockets open now.
    connections,
    /// Agents registered now.
    agents,
    /// Sockets accepted.
    connections_accepted,
    /// Sockets turned away because of `max_connections`.
    connections_refused,
    /// Connections that never became a WebSocket.
    handshakes_failed,
    /// Frames read, control frames included.
    frames_received,
    /// Offers, answers and candidates put into their addressee's queue.
    frames_relayed,
    /// Offers and answers to an agent that is not there.
    agents_not_found,
    /// Candidates to an agent that is not there: dropped without a word, as the original did.
    candidates_dropped,
    /// Frames that do not parse, and binary ones.
    frames_malformed,
    /// Frames whose `from` is not the socket's own name.
    from_mismatches,
    /// Frames that had to wait because their connection sent too many.
    frames_throttled,
    /// Frames over the size limit; each closed its connection.
    frames_oversize,
    /// Successful registrations.
    registrations,
    /// Refused registrations, of any kind.
    registrations_refused,
    /// Connections that did not register in time.
    registration_timeouts,
    /// Sockets that had to go because their agent came back with another.
    evictions,
    /// Connections closed because of too many refused frames.
    violators_closed,
    /// Relay sockets registered now.
    relay_agents,
    /// Relayed frames put into their addressee's queue.
    relay_frames,
    /// The bytes of their bodies.
    relay_bytes,
    /// Relayed frames that were dropped because too much waited for their addressee, or for all.
    relay_overflows,
    /// Relayed frames to an agent that is not there.
    relay_not_found,
    /// Clients dropped because they did not read.
    slow_clients,
    /// Clients dropped because nothing came from them, not even a pong.
    idle_timeouts,
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(super) fn subtract(counter: &AtomicU64) {
    counter.fetch_sub(1, Relaxed);
}
