//! chaski's decoders of GGUF's blocks equal ggml's, bit for bit.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../../convert/tests/common/blocks.rs"]
mod blocks;

use blocks::random_blocks;
use chaski_convert::dequant::GgmlType;
use chaski_models::testing::Rng;
use ggml_sys_bindgen::{FOLDER, Ggml, folder};

/// ggml, or `None` and a line that says so.
fn ggml() -> Option<Ggml> {
    let Some(dir) = folder() else {
        println!("skipped: {FOLDER} is not set (scripts/get-ggml.sh fetches the libraries)");
        return None;
    };
    let ggml = Ggml::open(&dir).unwrap();
    println!("ggml {}", ggml.version());
    Some(ggml)
}

/// Types that ggml has a decoder for; F32 needs none.
fn types() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.into_iter().filter(|&t| t != GgmlType::F32)
}

fn equal(ggml: &Ggml, t: GgmlType, raw: &[u8], what: &str) {
    let want = ggml.dequantize(t.id(), raw).unwrap();
    let mut got = vec![f32::NAN; want.len()];
    t.dequantize(raw, &mut got);
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let block = &raw[i / t.block_len() * t.block_bytes()..][..t.block_bytes()];
        assert!(
            g.to_bits() == w.to_bits(),
            "{t}, {what}: weight {i} is {g:e} ({:08x}), ggml's {w:e} ({:08x}); block {}",
            g.to_bits(),
            w.to_bits(),
            blocks::hex(block)
        );
    }
}

#[test]
fn types_have_ggmls_names_and_sizes() {
    let Some(ggml) = ggml() else { return };
    let mut n = 0;
    for id in 0..Ggml::N_TYPES + 10 {
        let info = ggml.type_info(id).filter(|t| t.block_len > 0);
        match (GgmlType::from_id(id), info) {
            (Ok(ours), Some(theirs)) => {
                n += 1;
                assert_eq!(
                    ours.name().to_lowercase(),
                    theirs.name.to_lowercase(),
                    "{id}"
                );
                assert_eq!(
                    (ours.block_len(), ours.block_bytes()),
                    (theirs.block_len, theirs.block_bytes),
                    "{ours}"
                );
            }
            // What is not decoded is at least named.
            (Err(error), Some(theirs)) => {
                let name = error.name.unwrap_or_default().to_lowercase();
                assert_eq!(name, theirs.name.to_lowercase(), "{id}");
                assert!(!error.retired, "{id}");
            }
            (Err(error), None) => assert!(error.retired || id >= Ggml::N_TYPES, "{id}: {error}"),
            (Ok(ours), None) => panic!("{ours}: ggml has no type {id}"),
        }
    }
    assert_eq!(n, GgmlType::ALL.len());
}

#[test]
fn what_ggml_quantises_is_decoded_as_ggml_does() {
    let Some(ggml) = ggml() else { return };
    let (rows, cols) = (64, 512);
    let mut rng = Rng::new(7);
    for t in types() {
        for deviation in [1.0, 0.02, 1e-6, 3e-39, 300.0] {
            let mut weights: Vec<f32> = (0..rows * cols)
                .map(|_| (deviation * rng.normal()) as f32)
                .collect();
            // Rows of zeros, of one value, of one sign, with an outlier.
            weights[..cols].fill(0.0);
            weights[cols..2 * cols].fill(-deviation as f32);
            weights[2 * cols..3 * cols]
                .iter_mut()
                .for_each(|w| *w = w.abs());
            weights[3 * cols + 5] *= 100.0;
            let raw = ggml.quantize(t.id(), &weights, cols).unwrap();
            assert_eq!(Some(raw.len()), t.row_bytes(rows * cols));
            equal(&ggml, t, &raw, &format!("weights of deviation {deviation}"));
        }
    }
}

#[test]
fn any_bits_with_finite_scales_are_decoded_as_ggml_does() {
    let Some(ggml) = ggml() else { return };
    for t in types() {
        let n = (1 << 20) / t.block_len();
        equal(&ggml, t, &random_blocks(t, 99, n), "random bits");
    }
}

#[test]
fn every_half_float_is_decoded_as_ggml_does() {
    let Some(ggml) = ggml() else { return };
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for t in [GgmlType::F16, GgmlType::BF16] {
        let want = ggml.dequantize(t.id(), &all).unwrap();
        let mut got = vec![0.0; want.len()];
        t.dequantize(&all, &mut got);
        for (bits, (g, w)) in got.iter().zip(&want).enumerate() {
            // What is no number stays none; its payload may differ from one CPU to the next.
            assert!(
                g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(),
                "{t} {bits:04x}: {g}, ggml's {w}"
            );
        }
    }
}

#[test]
fn scales_of_every_bit_pattern_are_decoded_as_ggml_does() {
    let Some(ggml) = ggml() else { return };
    // The scale of Q8_0 is converted as those of all other blocks.
    let mut raw = Vec::new();
    for scale in 0..=u16::MAX {
        let [low, high] = scale.to_le_bytes();
        if high & 0x7c != 0x7c {
            raw.extend([low, high]);
            raw.extend((0..32).map(|i| (i * 8) as u8));
        }
    }
    equal(&ggml, GgmlType::Q8_0, &raw, "every finite scale");
}
