//! The witness: a tamper-evident log of what an agent sent, received and refused.
//!
//! One canonical JSON line for each event, or for one event of several messages. Every line holds the hash of the one before; over all lines stands the Merkle tree of RFC
//! 6962; and ten times a second the agent signs the tree's root as a checkpoint in the form of C2SP tlog-checkpoint, which tools
//! for transparency logs read. A chain alone does not reveal an edit that was re-chained; a checkpoint does, and one that
//! somebody else holds also reveals a cut end and a history rewritten with the agent's own key.
//!
//! - [`Witness`] is the front: never blocks, bounded, counts what it drops and puts the count on record.
//! - [`Log`] is what it writes to, without thread or clock.
//! - [`verify`] and [`verify_against`] read a log with public keys only and name the first line that is wrong.
//! - [`prove`] makes, and [`check_proof`] checks, a self-contained proof about one message.
//!
//! On disk, in one folder: `NNNNNNNN.jsonl`, the lines, with `NNNNNNNN.checkpoints`, the signed notes one after the other,
//! beside each; `lock`; and `peers`, with what peers signed and what is held of theirs. No secrets are in any of them, and no payloads, but for
//! those of two messages that prove an equivocation: they are kept whole in `peers`, for nothing less proves it.

mod checkpoint;
mod circle;
mod equivocation;
mod hex;
mod log;
mod proof;
mod record;
mod tree;
mod verify;
mod walk;
mod witness;

pub use checkpoint::{
    Checkpoint, CheckpointError, LogKeys, agent_of_origin, origin, verifier_key, verify_cosignature,
};
pub use circle::{
    Circle, CircleError, Cosigned, Effect, Evidence, Verdict, cosigned, evidence, held_notes, prove_growth,
};
pub use equivocation::{Equivocations, NotProved, check_equivocation, equivocations};
pub use log::{CHECKPOINT_LINES, CHECKPOINT_MILLIS, Log, LogError, PUBLISH_MILLIS, Recovered, Settings, Tip};
pub use proof::{
    ConsistencyProof, InclusionProof, ProofError, ProveError, check_consistency_proof, check_proof, prove,
    prove_consistency,
};
pub use record::{
    BadLine, Detail, Entry, Event, MAX_LINE, MAX_MESSAGES, MAX_METADATA, MAX_METADATA_TEXT, Mention,
    Metadata, Record,
};
pub use tree::{
    Frontier, Growth, Hash, consistency_proof, inclusion_proof, root, verify_consistency, verify_inclusion,
};
pub use verify::{Verified, peek_agents, read, verify, verify_against};
pub use walk::{Fault, FaultKind, VerifyError};
pub use witness::{Clock, Done, NotRecorded, Policy, Status, When, Witness};
