//! Q4: codebook values + 32 + shift as unsigned bytes, so that two products of a pair fit 16 bits.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_mullo_epi32, _mm256_set1_epi8,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
    _mm256_srli_epi32, _mm256_sub_epi32,
};

use chaski_quant::{ActRows, QuantType, TileRun, tile::Q4_CODEBOOK};

use super::{
    load::{load_in_order, load_u8x8, load_u8x16},
    panel::PanelBlock,
    products::sweep,
};

const BYTES: usize = QuantType::Q4.tile_block_bytes();

/// `Q4_CODEBOOK + 32`, in 0..=60.
const CODEBOOK: [u8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (Q4_CODEBOOK[i] + 32) as u8;
        i += 1;
    }
    out
};

/// The 8 groups of 8 rows' values + 32, from 4 vectors of nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values(quants: &[u8], half: usize) -> [__m256i; 8] {
    let codebook = _mm256_broadcastsi128_si256(load_u8x16(&CODEBOOK, 0));
    let nibble = _mm256_set1_epi8(15);
    let mut values = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        let v = load_in_order(quants, 64 * j + 32 * half);
        let (low, high) = (v, _mm256_srli_epi16::<4>(v));
        values[j] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(low, nibble));
        values[4 + j] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(high, nibble));
    }
    values
}

/// Block scales of 8 scale bytes as floats, and their shifts, four times in each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales(scale_bytes: &[u8], half: usize) -> (__m256, __m256i) {
    let bytes = _mm256_cvtepu8_epi32(load_u8x8(scale_bytes, 8 * half));
    let scale = _mm256_sub_epi32(_mm256_srli_epi32::<1>(bytes), _mm256_set1_epi32(64));
    let shift = _mm256_and_si256(bytes, _mm256_set1_epi32(1));
    (
        _mm256_cvtepi32_ps(scale),
        _mm256_mullo_epi32(shift, _mm256_set1_epi32(0x0101_0101)),
    )
}

/// Values + 32 with their shifts: 0..=61, so two products of a pair are at most
/// 61 * 127 * 4 = 30,988.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn unpack(block: &[u8; BYTES], half: usize, out: &mut PanelBlock<8, 1>) {
    let values = values(&block[16..], half);
    let (scale, shift) = scales(&block[..16], half);
    for g in 0..8 {
        out.values[g][half] = _mm256_add_epi8(values[g], shift);
    }
    out.scales[0][half] = scale;
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q4(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 8, 1, 2, 32>(w, x, out, |block, half, out| unpack(block, half, out));
}
