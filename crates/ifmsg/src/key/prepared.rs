//! Keys whose signatures come often: with a table of a key's multiples, a verification under it costs half.
//!
//! RFC 8032, section 5.1.7, compares `[S]B` with `R + [k]A`. B is the same for everybody, and A is the same for everything that one
//! agent says, so there are tables of the multiples of both.

use std::{collections::BTreeMap, fmt, sync::LazyLock, time::Duration};

use curve25519_dalek::{
    constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
    edwards::CompressedEdwardsY,
    scalar::Scalar,
};
use sha2::{Digest as _, Sha512};

use super::{BadSignature, PublicKey, SignatureBytes, comb::Comb};

/// Valid signatures of a key before it gets a table: what a table costs, these have saved if it had been there before.
const WORTH_A_TABLE: u32 = 8;

/// Most keys with or on the way to a table; together 10 MiB.
const MOST_KEYS: usize = 256;

/// Of the base point of edwards25519.
static BASE: LazyLock<Comb> = LazyLock::new(|| Comb::new(&ED25519_BASEPOINT_POINT));

/// The points of small order, in their canonical form.
static SMALL: LazyLock<[CompressedEdwardsY; 8]> =
    LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress()));

/// A key that had nothing to verify for so long makes room for another.
const IDLE: Duration = Duration::from_secs(60);

/// Verifies under any key, faster under those that it has verified under before.
#[derive(Default)]
pub(crate) struct PreparedKeys {
    keys: BTreeMap<[u8; 32], Entry>,
}

struct Entry {
    /// Valid signatures.
    valid: u32,
    used: Duration,
    table: Option<PreparedKey>,
}

impl PreparedKeys {
    /// The verdict of [`PublicKey::verify_strict`]. Only valid signatures leave a trace, so forgers cost no memory.
    pub(crate) fn verify_strict(
        &mut self,
        key: &PublicKey,
        message: &[u8],
        signature: &SignatureBytes,
        now: Duration,
    ) -> Result<(), BadSignature> {
        if let Some(entry) = self.keys.get_mut(key.as_bytes()) {
            match &entry.table {
                Some(table) => table.verify_strict(message, signature)?,
                None => key.verify_strict(message, signature)?,
            }
            entry.used = now;
            entry.valid = entry.valid.saturating_add(1);
            if entry.valid == WORTH_A_TABLE {
                entry.table = Some(PreparedKey::new(key));
            }
            return Ok(());
        }
        key.verify_strict(message, signature)?;
        if self.has_room(now) {
            let entry = Entry {
                valid: 1,
                used: now,
                table: None,
            };
            self.keys.insert(*key.as_bytes(), entry);
        }
        Ok(())
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.keys.len() >= MOST_KEYS {
            self.keys.retain(|_, entry| now.saturating_sub(entry.used) < IDLE);
        }
        self.keys.len() < MOST_KEYS
    }
}

impl fmt::Debug for PreparedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedKeys({})", self.keys.len())
    }
}

/// A public key and multiples of its negative.
pub(crate) struct PreparedKey {
    key: PublicKey,
    negative: Comb,
}

impl PreparedKey {
    pub(crate) fn new(key: &PublicKey) -> Self {
        Self {
            key: *key,
            negative: Comb::new(&-key.key.to_edwards()),
        }
    }

    /// The strict rule, with the verdict of [`PublicKey::verify_strict`] on every input.
    pub(crate) fn verify_strict(
        &self,
        message: &[u8],
        signature: &SignatureBytes,
    ) -> Result<(), BadSignature> {
        let (r, s) = signature.as_bytes().split_at(32);
        let s = s.try_into().map_err(|_| BadSignature)?;
        // > decode [...] the second half as an integer S, in the range 0 <= s < L. If any of the decodings fail [...] the
        // > signature is invalid. (RFC 8032, section 5.1.7)
        let s: Scalar = Option::from(Scalar::from_canonical_bytes(s)).ok_or(BadSignature)?;
        let challenge = Sha512::new()
            .chain_update(r)
            .chain_update(self.key.as_bytes())
            .chain_update(message);
        let k = Scalar::from_bytes_mod_order_wide(&challenge.finalize().into());
        let expected = Comb::sum_of_multiples([(&BASE, &s), (&self.negative, &k)]).compress();
        // Compared as bytes, of which a point has one canonical form: another one is refused without a look at it. That A is not
        // small is known since it became a `PublicKey`.
        if expected.as_bytes()[..] != *r || SMALL.contains(&expected) {
            return Err(BadSignature);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::{constants::EIGHT_TORSION, edwards::EdwardsPoint};
    use proptest::prelude::*;

    use super::{super::Identity, *};

    proptest! {
        /// Whatever is signed, and wherever it is bent: one verdict.
        #[test]
        fn the_verdict_is_that_of_the_library(
            seed: [u8; 32],
            message in prop::collection::vec(any::<u8>(), 0..80),
            flips in prop::collection::vec(0..(64 + 32) * 8usize, 0..3),
        ) {
            let identity = Identity::from_seed(&seed);
            let mut signature = *identity.sign(&message).as_bytes();
            let mut key = *identity.public_key().as_bytes();
            for bit in &flips {
                let (bytes, bit): (&mut [u8], _) = match *bit {
                    bit @ 0..512 => (&mut signature, bit),
                    bit => (&mut key, bit - 512),
                };
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let key = PublicKey::from_bytes(&key);
            prop_assume!(key.is_ok());
            let key = key.unwrap();
            let signature = SignatureBytes::from_bytes(signature);
            let verdict = key.verify_strict(&message, &signature);
            prop_assert_eq!(PreparedKey::new(&key).verify_strict(&message, &signature), verdict);
            prop_assert!(!flips.is_empty() || verdict.is_ok());
        }

        /// Keys and nonces with a component of small order, which is where rules differ: with some challenges it vanishes from the
        /// equation, with others not.
        #[test]
        fn the_verdict_is_that_of_the_library_beside_the_prime_order_group(
            scalars: [[u8; 32]; 2],
            of_key in 0..8usize,
            of_nonce in 0..8usize,
            no_nonce: bool,
            message: [u8; 4],
        ) {
            let [a, mut nonce] = scalars.map(Scalar::from_bytes_mod_order);
            if no_nonce {
                nonce = Scalar::ZERO;
            }
            let public = (EdwardsPoint::mul_base(&a) + EIGHT_TORSION[of_key]).compress();
            let key = PublicKey::from_bytes(public.as_bytes());
            prop_assume!(key.is_ok());
            let key = key.unwrap();
            let r = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[of_nonce]).compress();
            let challenge = Sha512::new().chain_update(r.as_bytes()).chain_update(public.as_bytes()).chain_update(message);
            let k = Scalar::from_bytes_mod_order_wide(&challenge.finalize().into());
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(r.as_bytes());
            signature[32..].copy_from_slice((nonce + k * a).as_bytes());
            let signature = SignatureBytes::from_bytes(signature);
            let verdict = key.verify_strict(&message, &signature);
            prop_assert_eq!(PreparedKey::new(&key).verify_strict(&message, &signature), verdict);
        }
    }

    #[test]
    fn a_key_that_is_used_often_gets_a_table_and_forgeries_get_nothing() {
        let (alice, mallory) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let (signature, forged) = (alice.sign(b"m"), mallory.sign(b"m"));
        let key = alice.public_key();
        let mut keys = PreparedKeys::default();
        for n in 1..=2 * WORTH_A_TABLE {
            assert_eq!(
                keys.verify_strict(key, b"m", &forged, Duration::ZERO),
                Err(BadSignature)
            );
            assert_eq!(keys.keys.len(), usize::from(n > 1));
            assert_eq!(keys.verify_strict(key, b"m", &signature, Duration::ZERO), Ok(()));
            let entry = &keys.keys[key.as_bytes()];
            assert_eq!((entry.valid, entry.table.is_some()), (n, n >= WORTH_A_TABLE));
        }
    }

    #[test]
    fn as_many_keys_as_may_be_and_idle_ones_make_room() {
        let mut keys = PreparedKeys::default();
        let mut hear = |n: u64, now: u64| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&n.to_be_bytes());
            let identity = Identity::from_seed(&seed);
            let (key, signature) = (identity.public_key(), identity.sign(b"m"));
            let now = Duration::from_secs(now);
            assert_eq!(keys.verify_strict(key, b"m", &signature, now), Ok(()));
            (keys.keys.len(), keys.keys.contains_key(key.as_bytes()))
        };
        for n in 0..MOST_KEYS {
            assert_eq!(hear(n as u64, 0), (n + 1, true));
        }
        assert_eq!(hear(1_000, 59), (MOST_KEYS, false));
        assert_eq!(hear(0, 59), (MOST_KEYS, true));
        assert_eq!(hear(1_000, 60), (2, true));
    }
}
