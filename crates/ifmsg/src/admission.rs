//! Admission: the one gate between the network and the application.
//!
//! Every check that a message must pass stands in [`Admission::admit`], in the order in which it is made: cheap ones first,
//! the signature once for the whole flight, and no state changes before it has verified. **A replayed message is refused
//! here**, by the [`ReplayGuard`] of step 3, before its signature costs anything.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    AgentId, Destination, Header, KeyId, MessageDigest, Place, PublicKey, ReplayGuard, SignedMessage,
    Timestamp, TrustError, TrustStore, UnverifiedFlight, Verdict,
    canonical::Limits,
    codec::DecodeError,
    flight::{Proof, Sealed},
    key::PreparedKeys,
    message::Content,
    trust::Resolved,
};

/// How far a message's timestamp may be from the receiver's clock when it opens an epoch, either way.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// Most bytes of admitted messages that are kept to prove an equivocation with.
const HISTORY_BYTES: usize = 1024 * 1024;
const HISTORY_LEN: usize = 1_024;

/// A message whose key is bound to its source, whose signature covers every field, and which is no replay.
///
/// Only [`Admission`] makes one. Cheap to clone.
#[derive(Clone)]
pub struct VerifiedMessage(SignedMessage);

impl VerifiedMessage {
    /// Who sent it. Proven.
    pub fn source(&self) -> &AgentId {
        &self.header().source
    }

    /// Everything but the payload.
    pub fn header(&self) -> &Header {
        self.0.header()
    }

    /// The payload, a JSON object.
    pub fn payload(&self) -> serde_json::Value {
        self.payload_as().unwrap_or_default()
    }

    /// The payload as a type of the application's own.
    pub fn payload_as<'a, T: serde::Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_slice(self.payload_bytes())
    }

    /// The canonical bytes of the payload.
    pub fn payload_bytes(&self) -> &[u8] {
        self.0.payload_bytes()
    }

    /// An extension member (`x_...`), if the message has it.
    pub fn extension(&self, name: &str) -> Option<serde_json::Value> {
        if !name.starts_with("x_") {
            return None;
        }
        let mut message: serde_json::Map<_, _> = serde_json::from_slice(self.0.body()).ok()?;
        message.remove(name)
    }

    /// The message's digest.
    pub fn digest(&self) -> MessageDigest {
        self.0.digest()
    }

    /// The message as evidence: it proves to anyone who said this.
    pub fn as_signed(&self) -> &SignedMessage {
        &self.0
    }
}

impl fmt::Debug for VerifiedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifiedMessage").field(self.header()).finish()
    }
}

/// Why a message was not admitted. Compare with `==`; [`Rejection::name`] is stable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The frame is no message.
    #[error("malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// It is for another agent.
    #[error("it is addressed to {0}")]
    NotForUs(AgentId),
    /// It says that this agent sent it.
    #[error("it claims to come from this agent itself")]
    FromOurselves,
    /// No trusted key speaks for its source.
    #[error("not trusted: {0}")]
    Untrusted(#[from] TrustError),
    /// Seen before: a second path, or a replay.
    #[error("a duplicate: this message was admitted before")]
    Duplicate,
    /// Its number is further back than the window reaches.
    #[error("a replay: its number is below the window")]
    TooOld,
    /// It belongs to a run of its sender before the current one.
    #[error("a replay: its epoch is over")]
    StaleEpoch,
    /// Its sequence number is 0 or beyond 2^53 - 1.
    #[error("its sequence number is out of range")]
    SequenceOutOfRange,
    /// It would open an epoch, but is too old, or too far in the future, to prove that its sender is live.
    #[error("its epoch is not open, and its timestamp proves no live sender")]
    NotLive,
    /// It has expired.
    #[error("expired at {0}")]
    Expired(Timestamp),
    /// Its source may not send at its level.
    #[error("its source may not send at this level")]
    LevelNotPermitted,
    /// Its source may not send to everyone.
    #[error("its source may not send to everyone")]
    BroadcastNotPermitted,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    BadSignature,
    /// Two messages under one number, both signed by the same key.
    #[error("equivocation: another message with this number was signed by the same key")]
    Equivocation,
    /// The receiver has no room for it now. It was not taken; its sender sends it again.
    #[error("no room now; it may be sent again")]
    NoRoom,
}

impl Rejection {
    /// A short, stable, lowercase name for metrics, acknowledgements and the witness.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed(DecodeError::Unsigned) => "unsigned",
            Self::Malformed(_) => "malformed",
            Self::NotForUs(_) => "not-for-us",
            Self::FromOurselves => "from-ourselves",
            Self::Untrusted(TrustError::UnknownKey) => "unknown-key",
            Self::Untrusted(TrustError::WrongSource) => "wrong-source",
            Self::Untrusted(TrustError::KeyChanged) => "key-changed",
            Self::Untrusted(TrustError::Revoked) => "revoked-key",
            Self::Untrusted(TrustError::Full) => "trust-store-full",
            Self::Untrusted(TrustError::NeedsIntroduction) => "needs-introduction",
            Self::Duplicate => "duplicate",
            Self::TooOld => "too-old",
            Self::StaleEpoch => "stale-epoch",
            Self::SequenceOutOfRange => "sequence-out-of-range",
            Self::NotLive => "not-live",
            Self::Expired(_) => "expired",
            Self::LevelNotPermitted => "level-not-permitted",
            Self::BroadcastNotPermitted => "broadcast-not-permitted",
            Self::BadSignature => "bad-signature",
            Self::Equivocation => "equivocation",
            Self::NoRoom => "no-room",
        }
    }
}

/// The two messages that a key signed under one number. Either alone proves nothing; together they prove that it lied.
#[derive(Debug, Clone)]
pub struct Equivocation {
    /// The one that was admitted, as long as the history still has it.
    pub first: Option<VerifiedMessage>,
    /// The other one. Its signature is valid; it was not delivered.
    pub second: SignedMessage,
}

/// The time, as the gate needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time of day. May jump.
    pub wall: Timestamp,
    /// Since any fixed point; never runs backwards.
    pub elapsed: Duration,
}

/// One message's way through the gate, in the order of the frame.
#[derive(Debug)]
#[non_exhaustive]
pub enum Admitted {
    /// To be delivered.
    Message {
        /// The message.
        message: VerifiedMessage,
        /// It opened a new run of its sender.
        opened_epoch: bool,
        /// The policy bound its source's key just now.
        pinned: bool,
    },
    /// Refused.
    Rejected(RejectedMessage),
}

/// A message that was refused.
#[derive(Debug)]
pub struct RejectedMessage {
    /// What the message claims of itself. Proven only if `authentic`.
    pub header: Box<Header>,
    /// The key that it claims.
    pub key: KeyId,
    /// Its digest.
    pub digest: MessageDigest,
    /// Why.
    pub reason: Rejection,
    /// The signature was checked and is the source's own. Only then may a sender be told of the refusal.
    pub authentic: bool,
    /// The message, if it is `authentic`: evidence of what was refused.
    pub message: Option<SignedMessage>,
    /// Both messages, for [`Rejection::Equivocation`].
    pub proof: Option<Box<Equivocation>>,
}

/// What the session above has to say while messages are admitted.
pub trait Host {
    /// Whether there is room for this message. It has not been verified yet.
    fn has_room(&self, header: &Header) -> bool;
    /// Whether a message, whose signature is valid, answers a nonce of ours, and so proves that its sender is live.
    fn proves_liveness(&self, message: &SignedMessage) -> bool;
}

/// The gate: trust store, replay windows, and the rules between them.
#[derive(Debug)]
pub struct Admission {
    me: AgentId,
    trust: TrustStore,
    replay: ReplayGuard,
    keys: PreparedKeys,
    max_age: Duration,
    history: History,
}

impl Admission {
    /// The gate of this agent.
    pub fn new(me: AgentId, trust: TrustStore, max_age: Duration) -> Self {
        Self {
            me,
            trust,
            replay: ReplayGuard::new(),
            keys: PreparedKeys::default(),
            max_age,
            history: History::default(),
        }
    }

    /// Passes each message of a flight through all checks.
    ///
    /// 1. *address* it is for us, and not from us;
    /// 2. *trust* a trusted key is bound to its source, and it is the key that the frame names;
    /// 3. *replay* its number is fresh in its epoch and stream; a duplicate ends here, unverified;
    /// 4. *room* the host can take it now;
    /// 5. *signature* strict, once for all messages that are left;
    /// 6. *liveness* if it opens an epoch: its timestamp is within `max_age`, or it answers our nonce;
    /// 7. *commit* the number is taken, the key pinned. Nothing was changed before;
    /// 8. *permission* and *expiry*: what fails here has taken its number, and its sender may be told.
    pub fn admit(&mut self, flight: &UnverifiedFlight, now: Now, host: &impl Host) -> Vec<Admitted> {
        let checked: Vec<_> = (0..flight.messages.len())
            .map(|index| self.before_signature(flight, index, now, host))
            .collect();
        // One key signed the flight: the first candidate's. A candidate with another key of the same short name was not
        // signed by it.
        let key = checked
            .iter()
            .find_map(|outcome| outcome.as_ref().ok())
            .map(|resolved| Arc::new(resolved.key))
            .filter(|key| {
                let strictly =
                    |bytes: &[u8], signature: &_| self.keys.verify_strict(key, bytes, signature, now.elapsed);
                flight.verify_signature(key, strictly).is_ok()
            });
        let commit = |(index, outcome): (usize, Result<Resolved, Rejection>)| match (outcome, &key) {
            (Ok(resolved), Some(key)) if **key == resolved.key => {
                self.commit(flight, index, &resolved, key, now, host)
            }
            (Ok(_), _) => rejected(flight, index, Rejection::BadSignature, None),
            (Err(reason), _) => rejected(flight, index, reason, None),
        };
        checked.into_iter().enumerate().map(commit).collect()
    }

    /// Checks everything that time and replay do not touch, and returns the messages as evidence: for `ifmesh verify`,
    /// which judges old messages, and changes nothing.
    pub fn authenticate(
        trust: &TrustStore,
        flight: &UnverifiedFlight,
    ) -> Vec<Result<SignedMessage, Rejection>> {
        let mut verified: Option<(Arc<PublicKey>, bool)> = None;
        let resolve = |index: usize| {
            let header = &flight.messages[index].content.header;
            let resolved = trust.resolve(&header.source, &flight.key)?;
            check_permissions(header, &resolved)?;
            // Once for the whole flight.
            let (key, valid) = verified.get_or_insert_with(|| {
                let strictly = |bytes: &[u8], signature: &_| resolved.key.verify_strict(bytes, signature);
                let valid = flight.verify_signature(&resolved.key, strictly).is_ok();
                (Arc::new(resolved.key), valid)
            });
            if !*valid || **key != resolved.key {
                return Err(Rejection::BadSignature);
            }
            Ok(signed(flight, index, key))
        };
        (0..flight.messages.len()).map(resolve).collect()
    }

    /// Who is trusted.
    pub fn trust(&self) -> &TrustStore {
        &self.trust
    }

    /// Who is trusted, to be changed. Windows of keys that are no longer bound are forgotten with [`ReplayGuard::forget`].
    pub fn trust_mut(&mut self) -> &mut TrustStore {
        &mut self.trust
    }

    /// The replay windows.
    pub fn replay(&self) -> &ReplayGuard {
        &self.replay
    }

    /// The replay windows, to be restored or raised.
    pub fn replay_mut(&mut self) -> &mut ReplayGuard {
        &mut self.replay
    }

    fn before_signature(
        &self,
        flight: &UnverifiedFlight,
        index: usize,
        now: Now,
        host: &impl Host,
    ) -> Result<Resolved, Rejection> {
        let content = &flight.messages[index].content;
        let header = &content.header;
        match &header.destination {
            Destination::Agent(agent) if *agent != self.me => {
                return Err(Rejection::NotForUs(agent.clone()));
            }
            _ if header.source == self.me => return Err(Rejection::FromOurselves),
            _ => {}
        }
        let resolved = self.trust.resolve(&header.source, &flight.key)?;
        match self
            .replay
            .check(&resolved.key, place(header), &content.digest, now.elapsed)
        {
            // A conflict is decided after verification: only a valid signature makes it the sender's lie.
            Verdict::Fresh | Verdict::NewEpoch => {}
            Verdict::Conflict if !self.history.is_known_lie(&content.digest) => {}
            // The second copy of a lie that was reported tells nothing new.
            Verdict::Conflict | Verdict::Duplicate => return Err(Rejection::Duplicate),
            Verdict::TooOld => return Err(Rejection::TooOld),
            Verdict::StaleEpoch => return Err(Rejection::StaleEpoch),
            Verdict::OutOfRange => return Err(Rejection::SequenceOutOfRange),
        }
        if !host.has_room(header) {
            return Err(Rejection::NoRoom);
        }
        Ok(resolved)
    }

    fn commit(
        &mut self,
        flight: &UnverifiedFlight,
        index: usize,
        resolved: &Resolved,
        key: &Arc<PublicKey>,
        now: Now,
        host: &impl Host,
    ) -> Admitted {
        let message = signed(flight, index, key);
        let header = message.header();
        let (place, digest) = (place(header), message.digest());
        let refuse = |reason: Rejection| rejected(flight, index, reason, Some(key));
        // Decided again, since an earlier message of the same flight may have changed it.
        match self.replay.check(key, place, &digest, now.elapsed) {
            Verdict::Fresh => {}
            Verdict::NewEpoch => {
                let age = now.wall.millis_since(header.timestamp).unsigned_abs();
                if u128::from(age) > self.max_age.as_millis() && !host.proves_liveness(&message) {
                    return refuse(Rejection::NotLive);
                }
            }
            Verdict::Conflict => {
                let first = self.history.find(key, place);
                self.history.push_lie(digest);
                let mut rejection = rejection(flight, index, Rejection::Equivocation, Some(key));
                rejection.proof = Some(Box::new(Equivocation {
                    first,
                    second: message,
                }));
                return Admitted::Rejected(rejection);
            }
            Verdict::Duplicate => return refuse(Rejection::Duplicate),
            Verdict::TooOld => return refuse(Rejection::TooOld),
            Verdict::StaleEpoch => return refuse(Rejection::StaleEpoch),
            Verdict::OutOfRange => return refuse(Rejection::SequenceOutOfRange),
        }
        let pinned = resolved.learn && self.trust.binding(&header.source).is_none();
        if pinned && let Err(error) = self.trust.learn(&header.source, resolved.key) {
            return refuse(error.into());
        }
        let verdict = self.replay.commit(key, place, &digest, now.elapsed);
        if let Err(reason) = check_permissions(header, resolved) {
            return refuse(reason);
        }
        if let Some(at) = header.expires
            && header.is_expired(now.wall)
        {
            return refuse(Rejection::Expired(at));
        }
        let message = VerifiedMessage(message);
        self.history.push(&message);
        Admitted::Message {
            message,
            opened_epoch: verdict == Verdict::NewEpoch,
            pinned,
        }
    }
}

fn check_permissions(header: &Header, resolved: &Resolved) -> Result<(), Rejection> {
    if !resolved.permissions.allows(header.level) {
        return Err(Rejection::LevelNotPermitted);
    }
    if header.destination == Destination::Everyone && !resolved.permissions.broadcast {
        return Err(Rejection::BroadcastNotPermitted);
    }
    Ok(())
}

fn place(header: &Header) -> Place {
    Place {
        epoch: header.epoch,
        stream: header.stream(),
        sequence: header.sequence,
    }
}

fn signed(flight: &UnverifiedFlight, index: usize, key: &Arc<PublicKey>) -> SignedMessage {
    SignedMessage {
        sealed: flight.messages[index].clone(),
        key: key.clone(),
    }
}

fn rejected(
    flight: &UnverifiedFlight,
    index: usize,
    reason: Rejection,
    verified: Option<&Arc<PublicKey>>,
) -> Admitted {
    Admitted::Rejected(rejection(flight, index, reason, verified))
}

/// `verified` is the key under which the signature was found valid, if it was.
fn rejection(
    flight: &UnverifiedFlight,
    index: usize,
    reason: Rejection,
    verified: Option<&Arc<PublicKey>>,
) -> RejectedMessage {
    let content = &flight.messages[index].content;
    RejectedMessage {
        header: Box::new(content.header.clone()),
        key: flight.key.id(),
        digest: content.digest,
        reason,
        authentic: verified.is_some(),
        message: verified.map(|key| signed(flight, index, key)),
        proof: None,
    }
}

/// The latest admitted messages, so that an equivocation can be proved with both.
#[derive(Debug, Default)]
struct History {
    messages: VecDeque<Remembered>,
    bytes: usize,
    /// The latest equivocations that were reported, so that their replay is neither verified nor reported again.
    lies: VecDeque<MessageDigest>,
}

/// A message that was admitted, without what was read out of it: that is several times as much, and can be read again.
#[derive(Debug)]
struct Remembered {
    place: Place,
    body: Bytes,
    index: usize,
    proof: Arc<Proof>,
    key: Arc<PublicKey>,
}

impl Remembered {
    fn of(message: &VerifiedMessage) -> Self {
        let SignedMessage { sealed, key } = &message.0;
        Self {
            place: place(message.header()),
            body: sealed.content.body.clone(),
            index: sealed.index,
            proof: Arc::clone(&sealed.proof),
            key: Arc::clone(key),
        }
    }

    fn restore(&self) -> Option<VerifiedMessage> {
        let content = Content::read(self.body.clone(), &Limits::SCANNED).ok()?;
        Some(VerifiedMessage(SignedMessage {
            sealed: Sealed {
                content: Arc::new(content),
                index: self.index,
                proof: Arc::clone(&self.proof),
            },
            key: Arc::clone(&self.key),
        }))
    }
}

impl History {
    fn push(&mut self, message: &VerifiedMessage) {
        let size = message.0.body().len();
        // One that is too long is not worth all others.
        if size > HISTORY_BYTES {
            return;
        }
        self.bytes += size;
        self.messages.push_back(Remembered::of(message));
        while self.bytes > HISTORY_BYTES || self.messages.len() > HISTORY_LEN {
            let Some(oldest) = self.messages.pop_front() else {
                break;
            };
            self.bytes -= oldest.body.len();
        }
    }

    fn push_lie(&mut self, digest: MessageDigest) {
        self.lies.push_back(digest);
        if self.lies.len() > HISTORY_LEN {
            self.lies.pop_front();
        }
    }

    fn is_known_lie(&self, digest: &MessageDigest) -> bool {
        self.lies.contains(digest)
    }

    fn find(&self, key: &PublicKey, at: Place) -> Option<VerifiedMessage> {
        let same = |message: &&Remembered| message.place == at && *message.key == *key;
        self.messages.iter().rev().find(same)?.restore()
    }
}
