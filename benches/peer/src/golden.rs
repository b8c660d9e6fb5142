//! Blocks decoded by ggml, to be committed: the proof that chaski decodes them alike where ggml is not at hand.

use std::fmt::Write;

use chaski_convert::dequant::GgmlType;
use chaski_models::testing::Rng;
use ggml_sys_bindgen::{Ggml, PeerError};
use sha2::{Digest, Sha256};

use crate::blocks::{float_bytes, hex, random_blocks};

/// Blocks whose weights stand in the file; the digest of many more stands for theirs.
const SHOWN: usize = 2;
const DIGESTED: usize = 2000;

/// The file `convert/tests/data/ggml_blocks.txt`.
pub(crate) fn golden(ggml: &Ggml) -> Result<String, PeerError> {
    let mut text = format!(
        "# Blocks decoded by ggml {}, as little-endian f32; made by scripts/make_ggml_golden.sh.\n\
         # TYPE quantised|random BLOCKS WEIGHTS; TYPE digest SEED N SHA-256 of the weights of N random blocks\n",
        ggml.version()
    );
    let mut line = |parts: [&str; 4]| {
        // To a text, which cannot fail.
        let _ = writeln!(text, "{}", parts.join(" ").trim_end());
    };
    let mut rng = Rng::new(1);
    for t in GgmlType::ALL.into_iter().filter(|&t| t != GgmlType::F32) {
        // Of the types of one weight a block, some blocks.
        let n = SHOWN.max(32 / t.block_len());
        let cols = n * t.block_len();
        let weights: Vec<f32> = (0..cols).map(|_| (0.05 * rng.normal()) as f32).collect();
        let quantised = ggml.quantize(t.id(), &weights, cols)?;
        for (kind, raw) in [("quantised", quantised), ("random", random_blocks(t, 1, n))] {
            let floats = ggml.dequantize(t.id(), &raw)?;
            line([t.name(), kind, &hex(&raw), &hex(&float_bytes(&floats))]);
        }
        let floats = ggml.dequantize(t.id(), &random_blocks(t, 2, DIGESTED))?;
        let digest = Sha256::digest(float_bytes(&floats));
        line([t.name(), "digest 2", &DIGESTED.to_string(), &hex(&digest)]);
    }
    Ok(text)
}
