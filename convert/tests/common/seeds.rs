//! The seeds of the fuzz target `gguf`: sound and hostile files by name.
#![allow(dead_code, unreachable_pub, reason = "each user uses a part")]

use std::path::PathBuf;

use super::{
    models::{small, small_sentencepiece},
    writer::{ARRAY, Gguf, TEXT, U8, array, counted, long, raw, texts, uint},
};

pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/gguf"))
}

/// Those that open.
pub const SOUND: [&str; 5] = [
    "small",
    "small-version-2",
    "small-sentencepiece",
    "alignment-1",
    "q8-0",
];

type Change = fn(&mut Gguf);

pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let changed = |change: fn(&mut Gguf)| {
        let mut file = small();
        change(&mut file);
        file.bytes()
    };
    let mut seeds = vec![
        ("small", small().bytes()),
        ("small-sentencepiece", small_sentencepiece().bytes()),
        ("empty", Vec::new()),
        ("magic", b"GGUF".to_vec()),
        ("header", small().header()),
        ("zeros", vec![0; 100]),
    ];
    let changes: [(&'static str, Change); 20] = [
        ("small-version-2", |f| f.version = 2),
        ("alignment-1", |f| {
            f.alignment = 1;
            f.set("general.alignment", uint(1));
        }),
        ("q8-0", |f| {
            // One block, in the place of the last vector: opens, and fits no model.
            let t = f.tensor("output_norm.weight");
            (t.type_id, t.dims, t.data) = (8, vec![32], vec![7; 34]);
        }),
        ("alignment-0", |f| f.set("general.alignment", uint(0))),
        ("alignment-huge", |f| {
            f.set("general.alignment", long(1 << 62))
        }),
        ("big-endian", |f| f.version = 3 << 24),
        ("tensor-count-max", |f| f.n_tensors = Some(u64::MAX)),
        ("tensor-count-limit", |f| f.n_tensors = Some(65536)),
        ("key-count-limit", |f| f.n_keys = Some(65536)),
        ("text-length-max", |f| {
            f.set("general.name", raw(TEXT, &u64::MAX.to_le_bytes()));
        }),
        ("array-count-overflow", |f| {
            f.set("general.list", array(TEXT, 1 << 61, &counted(b"a")));
        }),
        ("array-nested", |f| {
            let head = [&ARRAY.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
            f.set("general.list", raw(ARRAY, &head.repeat(50)));
        }),
        ("dims-overflow", |f| {
            f.tensors[2].dims = vec![1 << 32, 1 << 32];
        }),
        ("dims-many", |f| f.tensors[2].n_dims = Some(u32::MAX)),
        ("shape-beyond-file", |f| {
            f.tensors[0].dims = vec![4, 1 << 20]
        }),
        ("offset-max", |f| f.tensors[2].offset = Some(u64::MAX - 31)),
        ("overlap", |f| f.tensors[2].offset = Some(0)),
        ("tokens-numbers", |f| {
            f.set("tokenizer.ggml.tokens", array(U8, 6, &[1; 6]));
        }),
        ("merges-odd", |f| {
            f.set("tokenizer.ggml.merges", texts(&["a", " b", "a b c"]));
        }),
        ("layers-max", |f| f.set("llama.block_count", uint(u32::MAX))),
    ];
    seeds.extend(changes.map(|(name, change)| (name, changed(change))));
    let mut bytes = small_sentencepiece().bytes();
    let at = bytes.windows(6).position(|w| w == b"<0x0A>").unwrap();
    bytes[at..at + 6].copy_from_slice(b"<0x-1>");
    seeds.push(("byte-token-negative", bytes));
    seeds
}
