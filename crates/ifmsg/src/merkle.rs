//! The Merkle tree hash of RFC 6962 (RFC 9162, section 2.1), over the messages of a flight.

use sha2::{Digest as _, Sha256};

use crate::MessageDigest;

pub(crate) type Node = [u8; 32];

/// > MTH(D[n]) = HASH(0x01 || MTH(D[0:k]) || MTH(D[k:n])), with k the largest power of two smaller than n.
///
/// The leaves are message digests, `SHA-256(0x00 || body)`, which is MTH({d(0)}).
pub(crate) fn root(leaves: &[MessageDigest]) -> Node {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf.as_bytes(),
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// > PATH(m, D[n]): the siblings from the leaf up to the root.
pub(crate) fn path(index: usize, leaves: &[MessageDigest]) -> Vec<Node> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (self::path(index, left), root(right))
    } else {
        (self::path(index - left.len(), right), root(left))
    };
    path.push(sibling);
    path
}

/// How many hashes the path of this leaf has.
pub(crate) fn path_len(index: usize, size: usize) -> usize {
    if size <= 1 {
        return 0;
    }
    let left = split(size);
    1 + if index < left {
        path_len(index, left)
    } else {
        path_len(index - left, size - left)
    }
}

/// The root that follows from a leaf and its path (RFC 9162, section 2.1.3.2); `None` if the path does not fit.
pub(crate) fn root_from_path(index: usize, size: usize, leaf: &MessageDigest, path: &[Node]) -> Option<Node> {
    if index >= size {
        return None;
    }
    if size == 1 {
        return path.is_empty().then_some(*leaf.as_bytes());
    }
    let (sibling, below) = path.split_last()?;
    let left = split(size);
    if index < left {
        Some(node(&root_from_path(index, left, leaf, below)?, sibling))
    } else {
        Some(node(
            sibling,
            &root_from_path(index - left, size - left, leaf, below)?,
        ))
    }
}

fn split(size: usize) -> usize {
    // The largest power of two that is smaller than `size`, for `size` of at least 2.
    1 << (usize::BITS - 1 - (size - 1).leading_zeros())
}

fn node(left: &Node, right: &Node) -> Node {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::digest;

    fn hex(node: &Node) -> String {
        crate::hex::encode(node)
    }

    /// The eight leaves and roots of certificate-transparency-go's `TestMerkleTree...` reference data.
    #[test]
    fn roots_of_the_certificate_transparency_reference_data() {
        let inputs: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e,
                0x6f,
            ],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves: Vec<_> = inputs.iter().map(|input| digest(input)).collect();
        for size in 1..=8 {
            assert_eq!(hex(&root(&leaves[..size])), roots[size - 1], "{size} leaves");
        }
    }

    #[test]
    fn every_path_of_every_small_tree_leads_to_its_root_and_to_no_other() {
        let leaves: Vec<_> = (0u8..40).map(|n| digest(&[n])).collect();
        for size in 1..=leaves.len() {
            let root = root(&leaves[..size]);
            for index in 0..size {
                let path = path(index, &leaves[..size]);
                assert_eq!(path.len(), path_len(index, size));
                assert_eq!(root_from_path(index, size, &leaves[index], &path), Some(root));
                assert_ne!(
                    root_from_path(index, size, &leaves[(index + 1) % 40], &path),
                    Some(root)
                );
                assert_eq!(root_from_path(size, size, &leaves[index], &path), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_ne!(root_from_path(index, size, &leaves[index], shorter), Some(root));
                }
                let longer = [&path[..], &[[0; 32]]].concat();
                assert_ne!(root_from_path(index, size, &leaves[index], &longer), Some(root));
            }
        }
    }
}
