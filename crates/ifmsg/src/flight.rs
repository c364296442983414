//! Flights: one signature over one or more messages, each of which stays provable alone.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    Header, Identity, MessageDigest, PublicKey, SUITE_ED25519_SHA256, SignatureBytes, UnsignedMessage,
    merkle::{self, Node},
    message::Content,
};

/// Most messages under one signature.
pub const MAX_FLIGHT: usize = 256;

/// A flight has no message or more than [`MAX_FLIGHT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a flight has 1 to {MAX_FLIGHT} messages")]
pub struct FlightSize;

/// Signs messages, all of them with one signature. A busy sender passes what has queued up, an idle one a single message.
pub fn sign_flight(
    identity: &Identity,
    messages: Vec<UnsignedMessage>,
) -> Result<Vec<SignedMessage>, FlightSize> {
    if !(1..=MAX_FLIGHT).contains(&messages.len()) {
        return Err(FlightSize);
    }
    if messages.len() == 1 {
        let alone = |message| SignedMessage::sign(identity, message);
        return Ok(messages.into_iter().map(alone).collect());
    }
    let leaves: Box<[MessageDigest]> = messages.iter().map(UnsignedMessage::digest).collect();
    let proof = Arc::new(Proof {
        signature: sign_root(identity, leaves.len(), &merkle::root(&leaves)),
        size: leaves.len(),
        siblings: Siblings::Leaves(leaves),
    });
    let key = identity.shared_public_key();
    let sign = |(index, message): (usize, UnsignedMessage)| SignedMessage {
        sealed: Sealed {
            content: message.content,
            index,
            proof: proof.clone(),
        },
        key: key.clone(),
    };
    Ok(messages.into_iter().enumerate().map(sign).collect())
}

/// A message with the signature of its source's key. Cheap to clone.
#[derive(Clone)]
pub struct SignedMessage {
    pub(crate) sealed: Sealed,
    /// Shared by all messages of a flight.
    pub(crate) key: Arc<PublicKey>,
}

impl SignedMessage {
    /// Signs a message alone.
    pub fn sign(identity: &Identity, message: UnsignedMessage) -> Self {
        let signature = sign_root(identity, 1, message.digest().as_bytes());
        Self {
            sealed: Sealed::alone(message.content, signature),
            key: identity.shared_public_key().clone(),
        }
    }

    /// Everything but the payload.
    pub fn header(&self) -> &Header {
        &self.sealed.content.header
    }

    /// The canonical bytes of the payload, a JSON object.
    pub fn payload_bytes(&self) -> &[u8] {
        self.sealed.content.payload()
    }

    /// The canonical bytes that are signed: the message without its signature.
    pub fn body(&self) -> &Bytes {
        &self.sealed.content.body
    }

    /// The message's digest.
    pub fn digest(&self) -> MessageDigest {
        self.sealed.content.digest
    }

    /// Whether both were signed as one flight.
    pub fn is_of_the_flight_of(&self, other: &Self) -> bool {
        self.sealed.proof.signature == other.sealed.proof.signature
    }

    /// The message without its signature. Shares its content.
    pub fn to_unsigned(&self) -> UnsignedMessage {
        UnsignedMessage {
            content: self.sealed.content.clone(),
        }
    }

    /// The key that signed it.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

impl fmt::Debug for SignedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedMessage")
            .field("header", &self.sealed.content.header)
            .field("key", &self.key.id())
            .finish_non_exhaustive()
    }
}

/// A message, and what ties it to the signature of its flight.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) content: Arc<Content>,
    /// Its place in the flight.
    pub(crate) index: usize,
    pub(crate) proof: Arc<Proof>,
}

/// The signature of a flight. Shared by its messages, where the whole flight is at hand.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) signature: SignatureBytes,
    pub(crate) size: usize,
    pub(crate) siblings: Siblings,
}

#[derive(Debug)]
pub(crate) enum Siblings {
    /// The whole flight is at hand.
    Leaves(Box<[MessageDigest]>),
    /// Only the path of one message is.
    Path(Box<[Node]>),
}

impl Sealed {
    pub(crate) fn alone(content: Arc<Content>, signature: SignatureBytes) -> Self {
        Self {
            content,
            index: 0,
            proof: Arc::new(Proof {
                signature,
                size: 1,
                siblings: Siblings::Path(Box::default()),
            }),
        }
    }

    pub(crate) fn path(&self) -> Vec<Node> {
        match &self.proof.siblings {
            Siblings::Leaves(leaves) => merkle::path(self.index, leaves),
            Siblings::Path(path) => path.to_vec(),
        }
    }
}

fn sign_root(identity: &Identity, size: usize, root: &Node) -> SignatureBytes {
    identity.sign(&signed_bytes(identity.public_key(), size, root))
}

/// `S = "IFMESH-SIG\0" || 0x01 || key_id[8] || n: u32 BE || root[32]`
pub(crate) fn signed_bytes(key: &PublicKey, size: usize, root: &Node) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[..11].copy_from_slice(b"IFMESH-SIG\0");
    bytes[11] = SUITE_ED25519_SHA256;
    bytes[12..20].copy_from_slice(key.id().as_bytes());
    // At most MAX_FLIGHT on both paths, so nothing is cut off.
    bytes[20..24].copy_from_slice(&(size as u32).to_be_bytes());
    bytes[24..].copy_from_slice(root);
    bytes
}
