use std::time::Duration;

use ifmesh_transport::Capabilities;

use crate::MeshError;

/// What an accepted frame costs beside its bytes, so that empty frames are bounded too.
pub(crate) const FRAME_OVERHEAD: usize = 64;

/// The smallest `max_frame` that a transport may have.
const SMALLEST_MAX_FRAME: usize = 65_536;

/// What holds for a mesh from its first to its last moment. Faults, which change, are [`Faults`](crate::Faults).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// What the transports promise, and what the mesh then keeps.
    ///
    /// - `reliable`: loss, duplication and corruption spare the reliable lane; under a partition its frames wait until the
    ///   link is mended or goes down.
    /// - `ordered`: jitter and reordering never let frames of the reliable lane overtake each other.
    ///
    /// The default promises neither, nor broadcast, and carries frames of up to 256 KiB: the worst that a session may meet.
    pub capabilities: Capabilities,
    /// Bytes that one agent may have under way to another on each lane, from `send` until the peer's `recv`; each frame
    /// counts for 64 more. What does not fit waits (reliable), or pushes out the oldest (best effort). 1 MiB by default.
    pub window: usize,
    /// How long after two agents can reach each other their link comes up. Zero by default.
    pub setup: Duration,
    /// How long a silent peer (crashed, partitioned) still counts as linked. 3 s by default.
    pub detection: Duration,
    /// How long `close` waits for accepted frames to reach their peers. 5 s by default.
    pub closing: Duration,
    /// How many lines of the trace are kept as text, the latest; its digest covers all. 65,536 by default.
    pub trace_lines: usize,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            capabilities: Capabilities {
                max_frame: 262_144,
                ordered: false,
                reliable: false,
                broadcast: false,
            },
            window: 1 << 20,
            setup: Duration::ZERO,
            detection: Duration::from_secs(3),
            closing: Duration::from_secs(5),
            trace_lines: 65_536,
        }
    }
}

impl MeshConfig {
    /// A mesh that promises order and reliability on the reliable lane, as SCTP or TCP would.
    pub fn reliable() -> Self {
        let mut config = Self::default();
        config.capabilities.ordered = true;
        config.capabilities.reliable = true;
        config
    }

    /// A mesh that also carries one envelope to everyone.
    #[must_use]
    pub fn with_broadcast(mut self) -> Self {
        self.capabilities.broadcast = true;
        self
    }

    pub(crate) fn check(&self) -> Result<(), MeshError> {
        let max_frame = self.capabilities.max_frame;
        if max_frame < SMALLEST_MAX_FRAME {
            return Err(MeshError::MaxFrameTooSmall { max_frame });
        }
        let needed = max_frame.saturating_add(FRAME_OVERHEAD);
        let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        if self.window < needed || self.window > most {
            return Err(MeshError::Window {
                window: self.window,
                needed,
            });
        }
        Ok(())
    }
}
