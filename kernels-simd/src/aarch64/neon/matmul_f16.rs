//! F16 weights, widened exactly.

use std::arch::aarch64::{vcvt_f32_f16, vcvt_high_f32_f16, vget_low_f16, vreinterpretq_f16_u16};

use chaski_quant::{ActRows, QuantType, TILE_ROWS, TileRun};

use super::{float_sweep::float_sweep, load::load_u16x8_le};

const BYTES: usize = QuantType::F16.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_f16(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    float_sweep(w, x, out, |block: &[u8; BYTES], k| {
        let at = 2 * TILE_ROWS * k;
        let low = vreinterpretq_f16_u16(load_u16x8_le(block, at));
        let high = vreinterpretq_f16_u16(load_u16x8_le(block, at + 16));
        [
            vcvt_f32_f16(vget_low_f16(low)),
            vcvt_high_f32_f16(low),
            vcvt_f32_f16(vget_low_f16(high)),
            vcvt_high_f32_f16(high),
        ]
    });
}
