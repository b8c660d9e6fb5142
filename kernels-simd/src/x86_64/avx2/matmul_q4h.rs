//! Q4H: as Q4, with scale and shift of the low and the high 16 weights of a block.

use std::arch::x86_64::_mm256_add_epi8;

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    matmul_q4::{scales, values},
    panel::PanelBlock,
    products::sweep,
};

const BYTES: usize = QuantType::Q4H.tile_block_bytes();

/// Values + 32 with their shifts, as Q4's.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn unpack(block: &[u8; BYTES], half: usize, out: &mut PanelBlock<8, 2>) {
    let values = values(&block[32..], half);
    for s in 0..2 {
        let (scale, shift) = scales(&block[16 * s..16 * (s + 1)], half);
        for g in 4 * s..4 * (s + 1) {
            out.values[g][half] = _mm256_add_epi8(values[g], shift);
        }
        out.scales[s][half] = scale;
    }
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 8, 2, 2, 32>(w, x, out, |block, half, out| unpack(block, half, out));
}
