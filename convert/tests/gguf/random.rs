//! The fuzz target's seeds, and random changes of them.

use std::fs;

use proptest::prelude::*;

use super::{drive::drive, seeds};

#[test]
fn the_seeds_of_the_fuzz_target_are_as_made_here() {
    let folder = seeds::folder();
    for (name, bytes) in seeds::seeds() {
        let path = folder.join(name);
        if std::env::var_os("CHASKI_BLESS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "{name}");
        let (opens, _) = drive(&bytes);
        assert_eq!(
            opens,
            seeds::SOUND.contains(&name) || OPEN_ONLY.contains(&name),
            "{name}"
        );
    }
}

/// Open, and are refused later: their tokenizers are at fault.
const OPEN_ONLY: [&str; 2] = ["merges-odd", "byte-token-negative"];

#[test]
fn every_seed_of_the_fuzz_target_is_survived() {
    let mut n = 0;
    for entry in fs::read_dir(seeds::folder()).unwrap() {
        drive(&fs::read(entry.unwrap().path()).unwrap());
        n += 1;
    }
    assert!(n >= seeds::seeds().len());
}

#[test]
fn every_byte_of_a_header_may_be_anything() {
    let file = super::models::small();
    let (bytes, header) = (file.bytes(), file.header().len());
    let mut opened = 0;
    for at in 0..header {
        for value in [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            bytes[at] ^ 1,
            bytes[at].wrapping_add(1),
        ] {
            let mut changed = bytes.clone();
            changed[at] = value;
            opened += usize::from(drive(&changed).0);
        }
        // The upper end of a number.
        for value in [[0xff; 8], [0, 0, 0, 0, 0, 0, 0, 0x80]] {
            let mut changed = bytes.clone();
            let end = (at + 8).min(bytes.len());
            changed[at..end].copy_from_slice(&value[..end - at]);
            opened += usize::from(drive(&changed).0);
        }
    }
    assert!(opened > 100, "{opened}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_are_survived(
        seed in 0..30_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        edges in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![0_u8, 1, 2, 8, 9, 127, 128, 255])), 0..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let seeds = seeds::seeds();
        let mut input = seeds[seed % seeds.len()].1.clone();
        if !input.is_empty() {
            for (at, value) in changes.into_iter().chain(edges) {
                let at = at.index(input.len());
                input[at] = value;
            }
        }
        if let Some(cut) = cut {
            input.truncate(cut.index(input.len() + 1));
        }
        drive(&input);
    }

    #[test]
    fn random_bytes_behind_the_magic_are_survived(rest in prop::collection::vec(any::<u8>(), 0..400)) {
        for version in [2_u32, 3] {
            let mut input = b"GGUF".to_vec();
            input.extend(version.to_le_bytes());
            input.extend(&rest);
            drive(&input);
        }
    }
}
