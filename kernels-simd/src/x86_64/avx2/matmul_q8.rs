//! Q8: `|w|` times `x` with the sign of `w`.
//!
//! Never the reverse: `|w|` is unsigned up to 128, while a code of activations lies in -127..=127
//! and so survives the change of sign.

use std::arch::x86_64::{_mm256_abs_epi8, _mm256_set1_epi8, _mm256_xor_si256};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{load::load_in_order, matmul_q5::scales, panel::PanelBlock, products::sweep};

const BYTES: usize = QuantType::Q8.tile_block_bytes();

/// Magnitudes and codes: a product of a pair is at most 128 * 127 * 2 = 32,512.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(block: &[u8; BYTES], half: usize, out: &mut PanelBlock<16, 1>) {
    for g in 0..8 {
        let codes = load_in_order(&block[16..], 64 * g + 32 * half);
        out.values[g][half] = _mm256_abs_epi8(codes);
        out.values[8 + g][half] = codes;
    }
    out.scales[0][half] = scales(&block[..16], half);
}

/// Codes + 128, for the instruction that multiplies unsigned bytes without a limit of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn unpack_unsigned(
    block: &[u8; BYTES],
    half: usize,
    out: &mut PanelBlock<8, 1>,
) {
    for g in 0..8 {
        let codes = load_in_order(&block[16..], 64 * g + 32 * half);
        out.values[g][half] = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    }
    out.scales[0][half] = scales(&block[..16], half);
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q8(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 16, 1, 1, 0>(w, x, out, |block, half, out| unpack(block, half, out));
}
