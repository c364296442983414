//! Multiples of a point that is known in advance, by a comb: a fraction of the doublings, and a table of 40 KiB.
//!
//! An odd number below 2^256 is a sum of all powers of two below that, each added or subtracted. Written into eight rows of 32 signs,
//! each column is one of 256 sums of eight points, and the negative of each is the sum of the opposite signs: 128 are kept, and
//! 128 more for the upper half of each row. So 32 additions and 15 doublings make any multiple, and of a sum of multiples the
//! doublings are shared (C. H. Lim, P. J. Lee, "More Flexible Exponentiation with Precomputation", CRYPTO '94; the signs as in
//! M. Hamburg, "Fast and compact elliptic-curve cryptography", 2012, section 3.3).
//!
//! Twice as many sums would save 8 additions, and be read from memory that is further away: between two messages a core does other
//! things, and nothing was gained.
//!
//! The time that it takes tells of the numbers: they must be public.

use curve25519_dalek::{edwards::EdwardsPoint, scalar::Scalar, traits::Identity as _};

/// Of signs.
const ROWS: usize = 8;
/// Columns that share a table.
const COLUMNS: usize = 16;
/// Tables.
const HALVES: usize = 2;
/// Sums in a table: those in which the last row is added.
const SUMS: usize = 1 << (ROWS - 1);

/// What is known of a point.
pub(super) struct Comb {
    point: EdwardsPoint,
    /// For each half, by the signs of all rows but the last.
    sums: Vec<EdwardsPoint>,
}

impl Comb {
    /// Takes as long as eight verifications save by it.
    pub(super) fn new(point: &EdwardsPoint) -> Self {
        let mut rows = [*point; ROWS];
        for row in 1..ROWS {
            rows[row] = doubled(rows[row - 1], HALVES * COLUMNS);
        }
        let mut sums = Vec::with_capacity(HALVES * SUMS);
        for half in 0..HALVES {
            if half > 0 {
                rows = rows.map(|row| doubled(row, COLUMNS));
            }
            let [others @ .., last] = &rows;
            // All subtracted; each further one from one that is there, by a change of its lowest sign.
            sums.push(others.iter().fold(*last, |sum, row| sum - row));
            let changes = others.map(|row| row + row);
            for signs in 1..SUMS {
                let former = sums[half * SUMS + (signs & (signs - 1))];
                sums.push(former + changes[signs.trailing_zeros() as usize]);
            }
        }
        Self { point: *point, sums }
    }

    /// The sum of so many times each point.
    pub(super) fn sum_of_multiples<const N: usize>(combs: [(&Self, &Scalar); N]) -> EdwardsPoint {
        let columns = combs.map(|(_, number)| columns(number));
        let mut sum = EdwardsPoint::identity();
        for column in (0..COLUMNS).rev() {
            sum += sum;
            for ((comb, _), columns) in combs.iter().zip(&columns) {
                for half in 0..HALVES {
                    let signs = columns[half * COLUMNS + column];
                    // Where the last row is subtracted, everything else is the other way round, too.
                    if signs >> (ROWS - 1) == 1 {
                        sum += comb.sums[half * SUMS + usize::from(signs) % SUMS];
                    } else {
                        sum -= comb.sums[half * SUMS + usize::from(!signs) % SUMS];
                    }
                }
            }
        }
        for (comb, number) in combs {
            // Signs make odd numbers.
            if is_even(number) {
                sum -= comb.point;
            }
        }
        sum
    }
}

fn is_even(number: &Scalar) -> bool {
    number.as_bytes()[0] & 1 == 0
}

/// The signs of an odd number, or of the one after an even one, from the lowest column to the highest: in each a bit for a row, set
/// where it is added.
fn columns(number: &Scalar) -> [u8; HALVES * COLUMNS] {
    // sum((2 b - 1) 2^i) = 2 sum(b 2^i) - (2^256 - 1), so the bits are those of (n + 2^256 - 1) / 2.
    let mut bits = *number.as_bytes();
    for byte in 0..32 {
        let above = bits.get(byte + 1).map_or(1, |above| above & 1);
        bits[byte] = bits[byte] >> 1 | above << 7;
    }
    std::array::from_fn(|column| {
        let row = |row: usize| bits[row * 4 + column / 8] >> (column % 8) & 1;
        (0..ROWS).fold(0, |signs, at| signs | row(at) << at)
    })
}

fn doubled(point: EdwardsPoint, times: usize) -> EdwardsPoint {
    (0..times).fold(point, |point, _| point + point)
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use proptest::prelude::*;

    use super::*;

    fn check(points: [EdwardsPoint; 2], numbers: [Scalar; 2]) {
        let [a, b] = points.map(|point| Comb::new(&point));
        let sum = Comb::sum_of_multiples([(&a, &numbers[0]), (&b, &numbers[1])]);
        assert_eq!(
            sum,
            points[0] * numbers[0] + points[1] * numbers[1],
            "{numbers:?}"
        );
    }

    proptest! {
        /// Any points of the whole group, and any numbers.
        #[test]
        fn it_multiplies_as_the_library_does(seeds: [[u8; 32]; 4], torsion: [prop::sample::Index; 2]) {
            let [p, q, m, n] = seeds.map(Scalar::from_bytes_mod_order);
            let [t, u] = torsion.map(|torsion| torsion.get(&EIGHT_TORSION));
            check([EdwardsPoint::mul_base(&p) + t, EdwardsPoint::mul_base(&q) + u], [m, n]);
        }
    }

    #[test]
    fn the_smallest_and_the_largest_numbers_and_each_single_bit() {
        let base = EdwardsPoint::mul_base(&Scalar::ONE);
        let comb = Comb::new(&base);
        let powers = (0..253).map(|bit| {
            let mut bytes = [0; 32];
            bytes[bit / 8] = 1 << (bit % 8);
            Scalar::from_bytes_mod_order(bytes)
        });
        for number in powers.chain([Scalar::ZERO, Scalar::ONE, -Scalar::ONE, -Scalar::from(2u8)]) {
            for number in [number, number + Scalar::ONE, -number] {
                let multiple = Comb::sum_of_multiples([(&comb, &number)]);
                assert_eq!(multiple, EdwardsPoint::mul_base(&number), "{number:?}");
            }
        }
    }
}
