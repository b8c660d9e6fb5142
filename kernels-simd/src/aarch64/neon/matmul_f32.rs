//! F32 weights.

use chaski_quant::{ActRows, QuantType, TILE_ROWS, TileRun};

use super::{float_sweep::float_sweep, load::load_f32x4_le};

const BYTES: usize = QuantType::F32.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_f32(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    float_sweep(w, x, out, |block: &[u8; BYTES], k| {
        let at = 4 * TILE_ROWS * k;
        [0, 16, 32, 48].map(|i| load_f32x4_le(block, at + i))
    });
}
