//! BF16 weights: the upper half of a float.

use std::arch::aarch64::{
    uint32x4_t, vget_low_u16, vreinterpretq_f32_u32, vshll_high_n_u16, vshll_n_u16,
};

use chaski_quant::{ActRows, QuantType, TILE_ROWS, TileRun};

use super::{float_sweep::float_sweep, load::load_u16x8_le};

const BYTES: usize = QuantType::BF16.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_bf16(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    float_sweep(w, x, out, |block: &[u8; BYTES], k| {
        let at = 2 * TILE_ROWS * k;
        let (low, high) = (load_u16x8_le(block, at), load_u16x8_le(block, at + 16));
        let bits: [uint32x4_t; 4] = [
            vshll_n_u16::<16>(vget_low_u16(low)),
            vshll_high_n_u16::<16>(low),
            vshll_n_u16::<16>(vget_low_u16(high)),
            vshll_high_n_u16::<16>(high),
        ];
        bits.map(|bits| vreinterpretq_f32_u32(bits))
    });
}
