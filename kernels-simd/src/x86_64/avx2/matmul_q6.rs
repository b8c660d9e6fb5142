//! Q6: codes 0..=63 as unsigned bytes; the value is the code less 32.

use std::arch::x86_64::{
    _mm256_and_si256, _mm256_or_si256, _mm256_set1_epi8, _mm256_slli_epi16, _mm256_srli_epi16,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::load_in_order,
    matmul_q5::{nibbles, scales},
    panel::PanelBlock,
    products::sweep,
};

const BYTES: usize = QuantType::Q6.tile_block_bytes();

/// Codes: two products of a pair are at most 63 * 127 * 4 = 32,004.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn unpack(block: &[u8; BYTES], half: usize, out: &mut PanelBlock<8, 1>) {
    let nibbles = nibbles(&block[16..16 + 256], half);
    for h in 0..2 {
        let upper = load_in_order(&block[16 + 256..], 64 * h + 32 * half);
        // Bits 2j..2j + 2 of a byte are the upper bits of group 4h + j: each to bits 4..6.
        let shifted = [
            _mm256_slli_epi16::<4>(upper),
            _mm256_slli_epi16::<2>(upper),
            upper,
            _mm256_srli_epi16::<2>(upper),
        ];
        for j in 0..4 {
            let bits = _mm256_and_si256(shifted[j], _mm256_set1_epi8(0x30));
            out.values[4 * h + j][half] = _mm256_or_si256(nibbles[4 * h + j], bits);
        }
    }
    out.scales[0][half] = scales(&block[..16], half);
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q6(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 8, 1, 2, 32>(w, x, out, |block, half, out| unpack(block, half, out));
}
