//! Numbers are spelled as ECMAScript spells them, over the deterministic sequence that RFC 8785's author published hashes for.
//!
//! Falsified by a single wrong digit in any line: the SHA-256 of all lines would differ from the published one. 1,000,000
//! lines; `ES6_NUMBERS=10000000` and `100000000` have published hashes as well.
#![allow(clippy::expect_used, reason = "a test may panic")]

use ifmsg::canonical::{CanonicalErrorKind as Kind, Limits, canonicalise, check, write_number};
use sha2::{Digest as _, Sha256};

/// Lines, SHA-256 of them.
const PUBLISHED: [(usize, &str); 6] = [
    (
        1_000,
        "be18b62b6f69cdab33a7e0dae0d9cfa869fda80ddc712221570f9f40a5878687",
    ),
    (
        10_000,
        "b9f7a8e75ef22a835685a52ccba7f7d6bdc99e34b010992cbc5864cd12be6892",
    ),
    (
        100_000,
        "22776e6d4b49fa294a0d0f349268e5c28808fe7e0cb2bcbe28f63894e494d4c7",
    ),
    (
        1_000_000,
        "49415fee2c56c77864931bd3624faad425c3c577d6d74e89a83bc725506dad16",
    ),
    (
        10_000_000,
        "b9f8a44a91d46813b21b9602e72f112613c91408db0b8341fb94603d9db135e0",
    ),
    (
        100_000_000,
        "0f7dda6b0837dde083c5d6b896f7d62340c8a2415b0c7121d83145e08a755272",
    ),
];

#[test]
fn the_published_hashes_are_met() {
    let default = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    let wanted =
        std::env::var("ES6_NUMBERS").map_or(default, |count| count.parse().expect("a count of lines"));
    let mut hash = Sha256::new();
    let mut line = Vec::new();
    let mut met = 0;
    for (index, value) in Sequence::default().take(wanted).enumerate() {
        line.clear();
        line.extend(format!("{:x},", value.to_bits()).bytes());
        write_number(&mut line, value).expect("finite");
        line.push(b'\n');
        hash.update(&line);
        if let Some((lines, published)) = PUBLISHED.iter().find(|(lines, _)| *lines == index + 1) {
            let ours: String = hash
                .clone()
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(ours, *published, "{lines} lines");
            met += 1;
        }
    }
    println!("{wanted} lines, {met} published hashes met");
    assert!(
        met > 0,
        "ES6_NUMBERS asks for fewer lines than the shortest published hash covers"
    );
}

/// What a document may hold of the same sequence passes as its own canonical spelling; the rest is refused both ways.
#[test]
fn a_document_holds_those_that_survive_a_second_reading() {
    let limits = Limits::default();
    let (mut held, mut refused) = (0, 0);
    for value in Sequence::default().take(20_000) {
        let mut spelling = Vec::new();
        write_number(&mut spelling, value).expect("finite");
        let text = std::str::from_utf8(&spelling).expect("digits");
        if value.abs() > 9_007_199_254_740_991.0 && !text.contains('e') {
            assert_eq!(
                check(&spelling, &limits).map_err(|error| error.kind),
                Err(Kind::IntegerTooLarge),
                "{text}"
            );
            refused += 1;
        } else {
            assert_eq!(canonicalise(&spelling, &limits).as_ref(), Ok(&spelling), "{text}");
            assert_eq!(check(&spelling, &limits), Ok(()), "{text}");
            assert_eq!(text.parse(), Ok(if value == 0.0 { 0.0 } else { value }), "{text}");
            held += 1;
        }
    }
    assert!(held > 19_000 && refused > 10, "{held} held, {refused} refused");
}

/// RFC 8785, appendix B.
#[test]
fn the_samples_of_the_rfc() {
    for (bits, expected) in [
        (0x0000_0000_0000_0000_u64, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0xc340_0000_0000_0000, "-9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5554, "333333333.33333325"),
        (0x41b3_de43_5555_5555, "333333333.3333333"),
        (0x41b3_de43_5555_5556, "333333333.3333334"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        let mut out = Vec::new();
        write_number(&mut out, f64::from_bits(bits)).expect("finite");
        assert_eq!(std::str::from_utf8(&out), Ok(expected), "{bits:016x}");
    }
    for bits in [
        0x7fff_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
    ] {
        let mut out = b"[1,".to_vec();
        let error = write_number(&mut out, f64::from_bits(bits)).expect_err("not finite");
        assert_eq!(
            (error.kind, error.offset, &out[..]),
            (Kind::NumberOutOfRange, 3, &b"[1,"[..])
        );
    }
}

/// The sequence: chosen doubles, then the 2,000 smallest normal ones, then the finite, nonzero doubles in a chain of hashes.
#[derive(Default)]
struct Sequence {
    index: usize,
    block: [u8; 32],
    /// What of `block` has been handed out, in doubles. The first block of zeros is never handed out.
    used: Option<usize>,
}

impl Iterator for Sequence {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        let index = self.index;
        self.index += 1;
        if let Some(value) = chosen().nth(index) {
            return Some(value);
        }
        let serial = index - chosen().count();
        if serial < 2_000 {
            return Some(f64::from_bits(f64::MIN_POSITIVE.to_bits() + serial as u64));
        }
        loop {
            let used = match self.used {
                Some(used) if used < 4 => used,
                _ => {
                    self.block = Sha256::digest(self.block).into();
                    0
                }
            };
            self.used = Some(used + 1);
            let value = f64::from_le_bytes(self.block.as_chunks().0[used]);
            if value != 0.0 && value.is_finite() {
                return Some(value);
            }
        }
    }
}

fn chosen() -> impl Iterator<Item = f64> {
    let least = f64::from_bits(1);
    [0.0, -0.0, least, -least]
        .into_iter()
        .chain(THIRDS.map(|value| -value))
        .chain(THIRDS)
        .chain(FIVES)
        .chain(NEAR_FIVE)
        .chain(EDGES.map(f64::from_bits))
}

/// A third of each power of ten, with the last digit as the sequence has it.
#[rustfmt::skip]
const THIRDS: [f64; 50] = [
    3.3333333333333335e21, 3.333333333333333e20, 3.3333333333333336e19, 3.333333333333334e18,
    3.333333333333334e17, 3.333333333333334e16, 3333333333333334.0, 333333333333333.4, 33333333333333.344,
    3333333333333.334, 333333333333.33344, 33333333333.33334, 3333333333.333334, 333333333.3333334,
    33333333.333333336, 3333333.3333333335, 333333.3333333333, 33333.333333333336, 3333.333333333333,
    333.3333333333333, 33.333333333333336, 3.3333333333333335, 0.3333333333333333, 0.03333333333333333,
    0.0033333333333333335, 0.0003333333333333333, 3.3333333333333335e-5, 3.3333333333333333e-6,
    3.3333333333333335e-7, 3.3333333333333334e-8, 3.3333333333333334e-9, 3.333333333333333e-10,
    3.3333333333333335e-11, 3.333333333333333e-12, 3.3333333333333334e-13, 3.3333333333333334e-14,
    3.3333333333333332e-15, 3.333333333333333e-16, 3.3333333333333335e-17, 3.3333333333333333e-18,
    3.3333333333333334e-19, 3.333333333333333e-20, 3.3333333333333333e-21, 3.333333333333333e-22,
    3.3333333333333333e-23, 3.3333333333333334e-24, 3.3333333333333335e-25, 3.333333333333333e-26,
    3.333333333333333e-27, 3.3333333333333338e-28,
];

#[rustfmt::skip]
const FIVES: [f64; 11] = [
    10.0, 5.0, 0.5, 0.05, 0.005, 0.0005, 5e-5, 5e-6, 5e-7, 5e-8, 5e-9,
];

#[rustfmt::skip]
const NEAR_FIVE: [f64; 15] = [
    5.06e-6, 5.006e-6, 5.0006e-6, 5.00006e-6, 5.000006e-6, 5.0000006e-6, 5.00000006e-6, 5.000000006e-6,
    5.0000000006e-6, 5.00000000006e-6, 5.000000000006e-6, 5.0000000000006e-6, 5.00000000000006e-6,
    5.000000000000006e-6, 5e-6,
];

/// Around one, three tenths, the smallest normal and the largest double, 2^53, 2^68, 10^21, 10^23, 10^-6, 10^9/3.
#[rustfmt::skip]
const EDGES: [u64; 38] = [
    0x3ff0000000000000, 0xbff0000000000000, 0xbfeffffffffffffa, 0xbfeffffffffffffb, 0x3feffffffffffffa,
    0x3feffffffffffffb, 0x3feffffffffffffc, 0x3feffffffffffffe, 0xbfefffffffffffff, 0xbfefffffffffffff,
    0x3fefffffffffffff, 0x3fefffffffffffff, 0x3fd3333333333332, 0x3fd3333333333333, 0x3fd3333333333334,
    0x0010000000000000, 0x000ffffffffffffd, 0x000fffffffffffff, 0x7fefffffffffffff, 0xffefffffffffffff,
    0x4340000000000000, 0xc340000000000000, 0x4430000000000000, 0x44b52d02c7e14af5, 0x44b52d02c7e14af6,
    0x44b52d02c7e14af7, 0x444b1ae4d6e2ef4e, 0x444b1ae4d6e2ef4f, 0x444b1ae4d6e2ef50, 0x3eb0c6f7a0b5ed8c,
    0x3eb0c6f7a0b5ed8d, 0x41b3de4355555553, 0x41b3de4355555554, 0x41b3de4355555555, 0x41b3de4355555556,
    0x41b3de4355555557, 0xbecbf647612f3696, 0x43143ff3c1cb0959,
];
