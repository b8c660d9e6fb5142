//! Q5: codes 0..=31 as unsigned bytes; the value is the code less 16.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_and_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srli_epi16,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{load_in_order, load_u8x8},
    panel::PanelBlock,
    products::sweep,
};

const BYTES: usize = QuantType::Q5.tile_block_bytes();

/// Block scales of types whose scale byte is an `i8`, as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales(scale_bytes: &[u8], half: usize) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_u8x8(scale_bytes, 8 * half)))
}

/// Low nibbles of the 8 groups of 8 rows, from 4 vectors of nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibbles(quants: &[u8], half: usize) -> [__m256i; 8] {
    let nibble = _mm256_set1_epi8(15);
    let mut codes = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        let v = load_in_order(quants, 64 * j + 32 * half);
        codes[j] = _mm256_and_si256(v, nibble);
        codes[4 + j] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
    }
    codes
}

/// Codes: four products of a pair are at most 31 * 127 * 8 = 31,496.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn unpack(block: &[u8; BYTES], half: usize, out: &mut PanelBlock<8, 1>) {
    let nibbles = nibbles(&block[16..16 + 256], half);
    let fifth = load_in_order(&block[16 + 256..], 32 * half);
    // Bit g of a byte is the fifth bit of group g: each to bit 4. What 16-bit shifts carry over
    // from the neighbouring byte, the mask drops.
    let shifted = [
        _mm256_slli_epi16::<4>(fifth),
        _mm256_slli_epi16::<3>(fifth),
        _mm256_slli_epi16::<2>(fifth),
        _mm256_slli_epi16::<1>(fifth),
        fifth,
        _mm256_srli_epi16::<1>(fifth),
        _mm256_srli_epi16::<2>(fifth),
        _mm256_srli_epi16::<3>(fifth),
    ];
    for g in 0..8 {
        let bit = _mm256_and_si256(shifted[g], _mm256_set1_epi8(16));
        out.values[g][half] = _mm256_or_si256(nibbles[g], bit);
    }
    out.scales[0][half] = scales(&block[..16], half);
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 8, 1, 4, 16>(w, x, out, |block, half, out| unpack(block, half, out));
}
