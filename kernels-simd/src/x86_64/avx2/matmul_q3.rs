//! Q3: codebook values + 16 + shift as unsigned bytes, so that four products of a pair fit 16 bits.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16,
};

use chaski_quant::{ActRows, QuantType, TileRun, tile::Q3_CODEBOOK};

use super::{
    load::{load_in_order, load_u8x16},
    matmul_q4::scales,
    panel::PanelBlock,
    products::sweep,
};

const BYTES: usize = QuantType::Q3.tile_block_bytes();

/// `Q3_CODEBOOK + 16`, in 0..=28, by the bits 0 to 2 of an index of four bits.
const CODEBOOK: [u8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (Q3_CODEBOOK[i % 8] + 16) as u8;
        i += 1;
    }
    out
};

/// The same by the bits 0, 1 and 3.
const CODEBOOK_013: [u8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = CODEBOOK[i & 3 | i >> 1 & 4];
        i += 1;
    }
    out
};

/// The 8 groups of 8 rows' values + 16, from 3 vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values(quants: &[u8], half: usize) -> [__m256i; 8] {
    let codebook = _mm256_broadcastsi128_si256(load_u8x16(&CODEBOOK, 0));
    let codebook_013 = _mm256_broadcastsi128_si256(load_u8x16(&CODEBOOK_013, 0));
    let (three, two) = (_mm256_set1_epi8(7), _mm256_set1_epi8(3));
    let mut v = [_mm256_setzero_si256(); 3];
    let mut values = [_mm256_setzero_si256(); 8];
    for j in 0..3 {
        v[j] = load_in_order(quants, 64 * j + 32 * half);
        let (low, high) = (v[j], _mm256_srli_epi16::<3>(v[j]));
        values[j] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(low, three));
        values[4 + j] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(high, three));
    }
    // Bit 2 of group 3's codes to bit 2 of an index, that of group 7's to bit 3: each table ignores the other.
    let third = _mm256_and_si256(_mm256_srli_epi16::<4>(v[2]), _mm256_set1_epi8(12));
    for (g, v, codebook) in [(3, v[0], codebook), (7, v[1], codebook_013)] {
        let index = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<6>(v), two), third);
        values[g] = _mm256_shuffle_epi8(codebook, index);
    }
    values
}

/// Values + 16 with their shifts, 0..=29: four products of a pair are at most 29 * 127 * 8 = 29,464.
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
pub(crate) fn matmul_q3(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 8, 1, 4, 16>(w, x, out, |block, half, out| unpack(block, half, out));
}
