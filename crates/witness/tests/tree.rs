//! The tree is that of RFC 6962, and its proofs are those of RFC 9162.
//!
//! Falsified by a root, path or verdict that differs from Certificate Transparency's reference data or from `ct-merkle`, or by a
//! proof that verifies for another leaf, place, size or root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ifmesh_witness::{
    Frontier, Growth, Hash, consistency_proof, inclusion_proof, root, verify_consistency, verify_inclusion,
};
use sha2::Sha256;

fn data(number: u64) -> Vec<u8> {
    format!("line {number}").into_bytes()
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|number| Hash::of_leaf(&data(number))).collect()
}

#[test]
fn roots_of_the_certificate_transparency_reference_data() {
    let inputs = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root().to_string(), roots[0]);
    for (input, root) in inputs.iter().zip(&roots[1..]) {
        let bytes: Vec<u8> = (0..input.len() / 2)
            .map(|at| u8::from_str_radix(&input[at * 2..at * 2 + 2], 16).unwrap())
            .collect();
        frontier.push(Hash::of_leaf(&bytes));
        assert_eq!(frontier.root().to_string(), *root);
    }
}

#[test]
fn every_root_and_path_is_that_of_ct_merkle() {
    let mut oracle: MemoryBackedTree<Sha256, Vec<u8>> = MemoryBackedTree::new();
    let all = leaves(70);
    for size in 1..=all.len() {
        oracle.push(data(size as u64 - 1));
        assert_eq!(
            root(&all[..size]).as_bytes().as_slice(),
            oracle.root().as_bytes().as_slice(),
            "{size}"
        );
        for index in 0..size {
            let ours = inclusion_proof(index as u64, &all[..size]).unwrap();
            let ours: Vec<u8> = ours.iter().flat_map(|hash| *hash.as_bytes()).collect();
            assert_eq!(
                ours,
                oracle.prove_inclusion(index).as_bytes(),
                "{index} in {size}"
            );
        }
        for old in 1..=size {
            let ours = consistency_proof(old as u64, &all[..size]).unwrap();
            let ours: Vec<u8> = ours.iter().flat_map(|hash| *hash.as_bytes()).collect();
            assert_eq!(
                ours,
                oracle.prove_consistency(size - old).as_bytes(),
                "{old} to {size}"
            );
        }
    }
}

#[test]
fn inclusion_verifies_for_its_own_leaf_place_size_and_root_only() {
    let all = leaves(33);
    for size in 1..=32u64 {
        let tree = &all[..size as usize];
        let root = root(tree);
        for index in 0..size {
            let path = inclusion_proof(index, tree).unwrap();
            let leaf = &tree[index as usize];
            assert!(verify_inclusion(leaf, index, size, &path, &root));
            assert!(!verify_inclusion(&all[32], index, size, &path, &root));
            assert!(!verify_inclusion(leaf, index, size, &path, &all[32]));
            assert!(!verify_inclusion(leaf, index, index, &path, &root));
            for other in (0..size).filter(|other| *other != index) {
                assert!(
                    !verify_inclusion(leaf, other, size, &path, &root),
                    "{index} as {other} of {size}"
                );
            }
            let longer = [&path[..], &[all[32]]].concat();
            assert!(!verify_inclusion(leaf, index, size, &longer, &root));
            if let Some((_, shorter)) = path.split_last() {
                assert!(!verify_inclusion(leaf, index, size, shorter, &root));
            }
        }
        assert_eq!(inclusion_proof(size, tree), None);
    }
}

#[test]
fn consistency_verifies_for_its_own_sizes_and_roots_only() {
    let all = leaves(33);
    for new in 0..=32u64 {
        let new_root = root(&all[..new as usize]);
        for old in 0..=new {
            let old_root = root(&all[..old as usize]);
            let path = consistency_proof(old, &all[..new as usize]).unwrap();
            assert!(
                verify_consistency(old, &old_root, new, &new_root, &path),
                "{old} to {new}"
            );
            assert!(
                !verify_consistency(old, &all[32], new, &new_root, &path),
                "{old} to {new}"
            );
            // Every tree begins with the empty one: there the new root is free.
            assert!(old == 0 && new > 0 || !verify_consistency(old, &old_root, new, &all[32], &path));
            let longer = [&path[..], &[all[32]]].concat();
            assert!(!verify_consistency(old, &old_root, new, &new_root, &longer));
            if let Some((_, shorter)) = path.split_last() {
                assert!(!verify_consistency(old, &old_root, new, &new_root, shorter));
            }
            assert!(old == new || !verify_consistency(new, &new_root, old, &old_root, &path));
        }
        assert_eq!(consistency_proof(new + 1, &all[..new as usize]), None);
    }
}

#[test]
fn a_growing_tree_makes_the_same_proofs_without_keeping_leaves() {
    let all = leaves(150);
    for old in 0..=70 {
        let mut tree: Frontier = all[..old].iter().copied().collect();
        let mut growth = Growth::since(tree.clone());
        for new in old..=150 {
            let expected = consistency_proof(old as u64, &all[..new]).unwrap();
            assert_eq!(growth.proof(&tree), expected, "{old} to {new}");
            if let Some(leaf) = all.get(new) {
                growth.push(&mut tree, *leaf);
            }
        }
    }
}
