//! Q5: codes 0..=31 as unsigned bytes; the value is the code less 16.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_si256,
    _mm256_slli_epi16, _mm256_srli_epi16,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{broadcast_codes, broadcast_pair, load_u8x8, load_u8x32},
    sweep::{ActBlock, sweep},
};

const BYTES: usize = QuantType::Q5.tile_block_bytes();

/// Half a block of Q5 or Q6: 8 rows.
#[derive(Clone, Copy)]
pub(super) struct Unpacked {
    /// Groups 0..8, each 8 rows by 4 unsigned codes.
    pub(super) codes: [__m256i; 8],
    /// Block scales.
    pub(super) scale: __m256,
}

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
        let v = load_u8x32(quants, 64 * j + 32 * half);
        codes[j] = _mm256_and_si256(v, nibble);
        codes[4 + j] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
    }
    codes
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(block: &[u8; BYTES], half: usize) -> Unpacked {
    let fifth = load_u8x32(&block[16 + 256..], 32 * half);
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
    let mut codes = nibbles(&block[16..16 + 256], half);
    for g in 0..8 {
        let bit = _mm256_and_si256(shifted[g], _mm256_set1_epi8(16));
        codes[g] = _mm256_or_si256(codes[g], bit);
    }
    Unpacked {
        codes,
        scale: scales(&block[..16], half),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step(w: &Unpacked, x: &ActBlock<'_>, acc: __m256) -> __m256 {
    let ones = _mm256_set1_epi16(1);
    let mut isum = _mm256_madd_epi16(_mm256_set1_epi16(-16), broadcast_pair(x.sums));
    for g in [0, 4] {
        // Four pairs of products: at most 31 * 127 * 8 = 31,496.
        let pair = |g: usize| _mm256_maddubs_epi16(w.codes[g], broadcast_codes(x.codes, g));
        let low = _mm256_add_epi16(pair(g), pair(g + 1));
        let high = _mm256_add_epi16(pair(g + 2), pair(g + 3));
        isum = _mm256_add_epi32(isum, _mm256_madd_epi16(_mm256_add_epi16(low, high), ones));
    }
    let scale = _mm256_mul_ps(w.scale, _mm256_set1_ps(x.scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale, acc)
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        |block, half| unpack(block, half),
        |w, x, acc| step(w, x, acc),
    );
}
