//! The Merkle tree of RFC 6962 (now RFC 9162, section 2.1): its root, grown a leaf at a time, and its two proofs.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A hash of the tree: of a line (a leaf), of two hashes (a node), or of the whole (a root). Shown in lowercase hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What stands as `prev` in the first line: 64 zeros.
    pub const ZERO: Self = Self([0; 32]);

    /// > MTH({d(0)}) = HASH(0x00 || d(0))
    pub fn of_leaf(data: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update([0]);
        hash.update(data);
        Self(hash.finalize().into())
    }

    /// > `MTH(D_n) = HASH(0x01 || MTH(D[0:k]) || MTH(D[k:n]))`
    pub fn of_node(left: &Self, right: &Self) -> Self {
        let mut bytes = [1; 65];
        bytes[1..33].copy_from_slice(&left.0);
        bytes[33..].copy_from_slice(&right.0);
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps the raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 lowercase hexadecimal digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        ifmsg::hex::decode(text.as_bytes()).map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ifmsg::hex::encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A tree to which leaves are added at the right: the roots of its perfect subtrees, the largest first. 64 hashes at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// Adds a leaf. One node is hashed on average.
    pub fn push(&mut self, leaf: Hash) {
        self.push_noting(leaf, |_, _| {});
    }

    /// As [`push`](Self::push); `note` is told of each subtree that this leaf completes, itself first, with its level.
    fn push_noting(&mut self, leaf: Hash, mut note: impl FnMut(u32, Hash)) {
        let mut subtree = leaf;
        note(0, subtree);
        // Two subtrees of one size become one, as in a binary counter that is incremented.
        for level in 1..=self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                subtree = Hash::of_node(&left, &subtree);
                note(level, subtree);
            }
        }
        self.subtrees.push(subtree);
        self.size += 1;
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The Merkle tree hash of all leaves so far.
    pub fn root(&self) -> Hash {
        // > MTH({}) = HASH()
        join(&self.subtrees).unwrap_or_else(|| Hash(Sha256::digest([]).into()))
    }
}

/// The root over subtrees that stand side by side, the largest first.
fn join(subtrees: &[Hash]) -> Option<Hash> {
    let (&smallest, larger) = subtrees.split_last()?;
    let root = larger
        .iter()
        .rev()
        .fold(smallest, |right, left| Hash::of_node(left, &right));
    Some(root)
}

/// Makes the consistency proof between the tree as it was and the tree as it grows, a leaf at a time: no leaf is kept.
///
/// The proof of RFC 9162, section 2.1.4.1, goes up from the last perfect subtree of the old tree. Where that is a right child, its
/// sibling is another subtree of the old tree; where it is a left child, its sibling is a subtree of new leaves alone. The
/// latter stand one after the other, so each is the root of the next stretch of new leaves; and they are subtrees of the grown tree
/// too, which hashes them anyway.
#[derive(Debug, Clone)]
pub struct Growth {
    old: Frontier,
    /// Roots of the stretches that are full, the lowest level first.
    full: Vec<Hash>,
    /// How many leaves stand before the stretch that is being filled, and its level.
    start: u64,
    level: u32,
}

impl Growth {
    /// From this tree on.
    pub fn since(old: Frontier) -> Self {
        Self {
            start: old.size,
            level: old.size.trailing_zeros(),
            old,
            full: Vec::new(),
        }
    }

    /// Adds a leaf to `tree`: the one that this began with, and to which every leaf since was added here. Hashes nothing that
    /// [`Frontier::push`] does not.
    pub fn push(&mut self, tree: &mut Frontier, leaf: Hash) {
        let size = tree.size + 1;
        tree.push_noting(leaf, |level, subtree| {
            let fills = self.old.size > 0 && level == self.level && size - self.start == 1 << level;
            if !fills {
                return;
            }
            self.full.push(subtree);
            self.start = size;
            // The next level at which the old tree's edge is a left child.
            self.level += 1;
            while self
                .old
                .size
                .checked_shr(self.level)
                .is_some_and(|rest| rest & 1 == 1)
            {
                self.level += 1;
            }
        });
    }

    /// How many leaves the old tree has.
    pub fn old_size(&self) -> u64 {
        self.old.size
    }

    /// The proof that `tree`, as it is now, begins with the old one.
    pub fn proof(&self, tree: &Frontier) -> Vec<Hash> {
        let old = &self.old;
        if old.size == 0 || tree.size <= old.size {
            return Vec::new();
        }
        let mut path = Vec::new();
        let mut left = old.subtrees.iter().rev();
        let last = left.next();
        if old.subtrees.len() > 1 {
            path.extend(last);
        }
        // The leaves of the last stretch are those of the tree's smallest subtrees: one for each bit of their number.
        let smallest = (tree.size - self.start).count_ones() as usize;
        let partial = join(&tree.subtrees[tree.subtrees.len().saturating_sub(smallest)..]);
        let mut right = self.full.iter().copied().chain(partial);
        let lowest = old.size.trailing_zeros();
        path.extend(right.next());
        for level in lowest + 1..u64::BITS {
            if old.size >> level & 1 == 1 {
                path.extend(left.next());
            } else {
                path.extend(right.next());
            }
        }
        path
    }
}

impl FromIterator<Hash> for Frontier {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut frontier = Self::default();
        for leaf in leaves {
            frontier.push(leaf);
        }
        frontier
    }
}

/// The Merkle tree hash of all `leaves` (RFC 9162, section 2.1.1).
pub fn root(leaves: &[Hash]) -> Hash {
    leaves.iter().copied().collect::<Frontier>().root()
}

/// PATH(m, D_n) of RFC 9162, section 2.1.3.1: the siblings on the way from the leaf at `index` up to the root. `None` if there
/// is no such leaf.
pub fn inclusion_proof(index: u64, leaves: &[Hash]) -> Option<Vec<Hash>> {
    let mut index = usize::try_from(index).ok()?;
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let mut subtree = leaves;
    while subtree.len() > 1 {
        let (left, right) = subtree.split_at(split(subtree.len()));
        if index < left.len() {
            path.push(root(right));
            subtree = left;
        } else {
            path.push(root(left));
            index -= left.len();
            subtree = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that `leaf` stands at `index` in the tree of `size` leaves with this `root` (RFC 9162, section 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    // > 1. Compare leaf_index from the inclusion_proof_v2 structure against tree_size. If leaf_index is greater than or equal
    // > to tree_size, then fail the proof verification.
    if index >= size {
        return false;
    }
    // > 2. Set fn to leaf_index and sn to tree_size - 1.  3. Set r to hash.
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    // > 4. For each value p in the inclusion_path array:
    for sibling in path {
        // > a. If sn is 0, then stop the iteration and fail the proof verification.
        if last == 0 {
            return false;
        }
        // > b. If LSB(fn) is set, or if fn is equal to sn, then: set r to HASH(0x01 || p || r); if LSB(fn) is not set, then
        // > right-shift both fn and sn equally until either LSB(fn) is set or fn is 0.
        if at & 1 == 1 || at == last {
            hash = Hash::of_node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            // > Otherwise: set r to HASH(0x01 || r || p).
            hash = Hash::of_node(&hash, sibling);
        }
        // > c. Finally, right-shift both fn and sn one time.
        at >>= 1;
        last >>= 1;
    }
    // > 5. Compare sn to 0. Compare r against the root_hash.
    last == 0 && hash == *root
}

/// PROOF(m, D_n) of RFC 9162, section 2.1.4.1: that the tree of the first `old_size` leaves is a beginning of the tree of all
/// `leaves`. Empty if they are the same tree, or the old one is empty; `None` if it is the larger one.
pub fn consistency_proof(old_size: u64, leaves: &[Hash]) -> Option<Vec<Hash>> {
    let mut old = usize::try_from(old_size).ok()?;
    if old > leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    if old == 0 || old == leaves.len() {
        return Some(path);
    }
    let mut subtree = leaves;
    // Whether the old tree is this very subtree's left part from the first leaf on: then the verifier knows its root.
    let mut known = true;
    while old < subtree.len() {
        let k = split(subtree.len());
        let (left, right) = subtree.split_at(k);
        if old <= k {
            // > SUBPROOF(m, D_n, b) = SUBPROOF(m, D[0:k], b) : MTH(D[k:n])
            path.push(root(right));
            subtree = left;
        } else {
            // > SUBPROOF(m, D_n, b) = SUBPROOF(m - k, D[k:n], false) : MTH(D[0:k])
            path.push(root(left));
            subtree = right;
            old -= k;
            known = false;
        }
    }
    if !known {
        // > SUBPROOF(m, D_m, false) = {MTH(D_m)}
        path.push(root(subtree));
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that the tree of `new_size` leaves and `new_root` begins with the one of `old_size` leaves and
/// `old_root` (RFC 9162, section 2.1.4.2). Every tree begins with the empty one.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    path: &[Hash],
) -> bool {
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return path.is_empty() && *old_root == Frontier::default().root();
    }
    // > 1. If consistency_path is an empty array, stop and fail.
    // > 2. If first is an exact power of 2, then prepend first_hash to the consistency_path array.
    let (start, rest) = if old_size.is_power_of_two() {
        (old_root, path)
    } else {
        let Some((start, rest)) = path.split_first() else {
            return false;
        };
        (start, rest)
    };
    if path.is_empty() {
        return false;
    }
    // > 3. Set fn to first - 1 and sn to second - 1.
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    // > 4. If LSB(fn) is set, then right-shift both fn and sn equally until LSB(fn) is not set.
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    // > 5. Set both fr and sr to the first value in the consistency_path array.
    let (mut old, mut new) = (*start, *start);
    // > 6. For each subsequent value c in the consistency_path array:
    for hash in rest {
        // > a. If sn is 0, then stop the iteration and fail the proof verification.
        if last == 0 {
            return false;
        }
        // > b. If LSB(fn) is set, or if fn is equal to sn, then: fr = HASH(0x01 || c || fr), sr = HASH(0x01 || c || sr); if
        // > LSB(fn) is not set, then right-shift both fn and sn equally until either LSB(fn) is set or fn is 0.
        if at & 1 == 1 || at == last {
            old = Hash::of_node(hash, &old);
            new = Hash::of_node(hash, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            // > Otherwise: set sr to HASH(0x01 || sr || c).
            new = Hash::of_node(&new, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    // > 7. ... verify that the fr calculated is equal to first_hash, that the sr calculated is equal to second_hash, and that
    // > sn is 0.
    last == 0 && old == *old_root && new == *new_root
}

/// The largest power of two that is smaller than `size`, for a `size` of at least 2.
fn split(size: usize) -> usize {
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}
