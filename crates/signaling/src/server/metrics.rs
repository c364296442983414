//! Counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident,)*) => {
        /// What happened at a server since it started. Each counter only grows, except those that say "now".
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct ServerMetrics {
            $($(#[doc = $doc])+ pub $name: u64,)*
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

        impl ServerMetrics {
            /// The text format of Prometheus, version 0.0.4. Names begin with `ifmesh_signaling_`; those of counters end in
            /// `_total`.
            pub fn to_prometheus(&self) -> String {
                let mut text = String::new();
                $(describe(&mut text, stringify!($kind), stringify!($name), concat!($($doc),+), self.$name);)*
                text
            }
        }
    };
}

fn describe(text: &mut String, kind: &str, name: &str, help: &str, value: u64) {
    let suffix = if kind == "counter" { "_total" } else { "" };
    let name = format!("ifmesh_signaling_{name}{suffix}");
    let help = help.trim().replace('`', "");
    text.push_str(&format!(
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
    ));
}

counters! {
    /// Sockets open now.
    gauge connections,
    /// Agents registered now.
    gauge agents,
    /// Sockets accepted.
    counter connections_accepted,
    /// Sockets turned away because of `max_connections`, or because their address has or opens too many.
    counter connections_refused,
    /// Connections that never became a WebSocket.
    counter handshakes_failed,
    /// Frames read, control frames included.
    counter frames_received,
    /// Offers, answers and candidates put into their addressee's queue.
    counter frames_relayed,
    /// Offers and answers to an agent that is not there.
    counter agents_not_found,
    /// Candidates to an agent that is not there: dropped without a word, as the original did.
    counter candidates_dropped,
    /// Frames that do not parse, and binary ones.
    counter frames_malformed,
    /// Frames whose `from` is not the socket's own name.
    counter from_mismatches,
    /// Frames that had to wait because their connection sent too many.
    counter frames_throttled,
    /// Frames over the size limit; each closed its connection.
    counter frames_oversize,
    /// Connections closed because what came is no frame of RFC 6455, or no text.
    counter protocol_errors,
    /// Successful registrations.
    counter registrations,
    /// Refused registrations, of any kind.
    counter registrations_refused,
    /// Connections that did not register in time.
    counter registration_timeouts,
    /// Sockets that had to go because their agent came back with another.
    counter evictions,
    /// Connections closed because of too many refused frames.
    counter violators_closed,
    /// Relay sockets registered now.
    gauge relay_agents,
    /// Relayed frames put into their addressee's queue.
    counter relay_frames,
    /// The bytes of their bodies.
    counter relay_bytes,
    /// Relayed frames that were dropped because too much waited for their addressee, or for all.
    counter relay_overflows,
    /// Relayed frames to an agent that is not there.
    counter relay_not_found,
    /// Clients dropped because they did not read.
    counter slow_clients,
    /// Clients dropped because nothing came from them, not even a pong.
    counter idle_timeouts,
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(super) fn subtract(counter: &AtomicU64) {
    counter.fetch_sub(1, Relaxed);
}
