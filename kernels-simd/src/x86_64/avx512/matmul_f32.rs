//! F32 weights.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{float_sweep::float_sweep, load::load_f32x16_le};

const BYTES: usize = QuantType::F32.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_f32(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    float_sweep(w, x, out, |block: &[u8; BYTES], i| {
        load_f32x16_le(block, 4 * i)
    });
}
