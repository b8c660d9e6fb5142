//! The decoders of GGUF's blocks against blocks that ggml decoded (`benches/peer` compares with ggml itself).
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/blocks.rs"]
mod blocks;

use std::collections::BTreeSet;

use blocks::{float_bytes, hex, random_blocks};
use chaski_convert::dequant::GgmlType;
use sha2::{Digest, Sha256};

const GOLDEN: &str = include_str!("data/ggml_blocks.txt");

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn decoded(t: GgmlType, raw: &[u8]) -> Vec<u8> {
    let mut floats = vec![f32::NAN; raw.len() / t.block_bytes() * t.block_len()];
    t.dequantize(raw, &mut floats);
    float_bytes(&floats)
}

#[test]
fn blocks_are_decoded_as_ggml_does() {
    let mut checked = BTreeSet::new();
    for line in GOLDEN.lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let t = GgmlType::ALL
            .into_iter()
            .find(|t| t.name() == fields[0])
            .unwrap();
        match fields[1..] {
            [kind @ ("quantised" | "random"), raw, want] => {
                let raw = bytes(raw);
                if kind == "random" {
                    let n = raw.len() / t.block_bytes();
                    assert_eq!(
                        raw,
                        random_blocks(t, 1, n),
                        "{t}: the seed makes other blocks"
                    );
                }
                let got = decoded(t, &raw);
                for (i, (got, want)) in got.chunks(4).zip(bytes(want).chunks(4)).enumerate() {
                    assert_eq!(hex(got), hex(want), "{t}, {kind}: weight {i}");
                }
                assert_eq!(got.len(), want.len() / 2, "{t}");
                checked.insert((t, kind));
            }
            ["digest", seed, n, want] => {
                let raw = random_blocks(t, seed.parse().unwrap(), n.parse().unwrap());
                let digest = hex(&Sha256::digest(decoded(t, &raw)));
                assert_eq!(digest, want, "{t}: some of {n} blocks");
                checked.insert((t, "digest"));
            }
            _ => panic!("{line}"),
        }
    }
    // F32 is not decoded but read.
    assert_eq!(checked.len(), 3 * (GgmlType::ALL.len() - 1), "{checked:?}");
}

#[test]
fn floats_come_as_they_are() {
    let floats = [
        0.0,
        -0.0,
        1.5,
        f32::MIN_POSITIVE / 2.0,
        f32::INFINITY,
        -1e38,
    ];
    assert_eq!(
        decoded(GgmlType::F32, &float_bytes(&floats)),
        float_bytes(&floats)
    );
}
