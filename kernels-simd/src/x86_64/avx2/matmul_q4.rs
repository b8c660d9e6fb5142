//! Q4: codebook values + 32 as unsigned bytes, so that two products of a pair fit 16 bits.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_broadcastsi128_si256, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_fmadd_ps,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_srli_epi32, _mm256_sub_epi16,
    _mm256_sub_epi32,
};

use chaski_quant::{ActRows, QuantType, TileRun, tile::Q4_CODEBOOK};

use super::{
    load::{broadcast_codes, broadcast_pair, load_u8x8, load_u8x16, load_u8x32},
    sweep::{ActBlock, sweep},
};

const BYTES: usize = QuantType::Q4.tile_block_bytes();

/// `Q4_CODEBOOK + 32`, in 0..=60: with the shift's bit 61 would still do, but the shift is a
/// correction of the sum instead.
const CODEBOOK: [u8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (Q4_CODEBOOK[i] + 32) as u8;
        i += 1;
    }
    out
};

/// Half a block: 8 rows.
#[derive(Clone, Copy)]
struct Unpacked {
    /// Groups 0..8, each 8 rows by 4 values of 0..=60.
    values: [__m256i; 8],
    /// `shift - 32`, twice in each lane.
    offset: __m256i,
    /// Block scales.
    scale: __m256,
}

/// The 8 groups of 8 rows' values + 32, from 4 vectors of nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values(quants: &[u8], half: usize) -> [__m256i; 8] {
    let codebook = _mm256_broadcastsi128_si256(load_u8x16(&CODEBOOK, 0));
    let nibble = _mm256_set1_epi8(15);
    let mut values = [_mm256_setzero_si256(); 8];
    for j in 0..4 {
        let v = load_u8x32(quants, 64 * j + 32 * half);
        let (low, high) = (v, _mm256_srli_epi16::<4>(v));
        values[j] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(low, nibble));
        values[4 + j] = _mm256_shuffle_epi8(codebook, _mm256_and_si256(high, nibble));
    }
    values
}

/// Block scales of 8 scale bytes as floats, and `shift - 32` in both halves of each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales(scale_bytes: &[u8], half: usize) -> (__m256, __m256i) {
    let bytes = _mm256_cvtepu8_epi32(load_u8x8(scale_bytes, 8 * half));
    let scale = _mm256_sub_epi32(_mm256_srli_epi32::<1>(bytes), _mm256_set1_epi32(64));
    let shift = _mm256_and_si256(bytes, _mm256_set1_epi32(1));
    let twice = _mm256_or_si256(shift, _mm256_slli_epi32::<16>(shift));
    (
        _mm256_cvtepi32_ps(scale),
        _mm256_sub_epi16(twice, _mm256_set1_epi16(32)),
    )
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(block: &[u8; BYTES], half: usize) -> Unpacked {
    let (scale, offset) = scales(&block[..16], half);
    Unpacked {
        values: values(&block[16..], half),
        offset,
        scale,
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step(w: &Unpacked, x: &ActBlock<'_>, acc: __m256) -> __m256 {
    let ones = _mm256_set1_epi16(1);
    // The sum of values + 32, less 32 - shift times the sum of the activations' codes.
    let mut isum = _mm256_madd_epi16(w.offset, broadcast_pair(x.sums));
    for j in 0..4 {
        // Two pairs of products: at most 60 * 127 * 4 = 30,480.
        let low = _mm256_maddubs_epi16(w.values[j], broadcast_codes(x.codes, j));
        let high = _mm256_maddubs_epi16(w.values[4 + j], broadcast_codes(x.codes, 4 + j));
        let pairs = _mm256_add_epi16(low, high);
        isum = _mm256_add_epi32(isum, _mm256_madd_epi16(pairs, ones));
    }
    let scale = _mm256_mul_ps(w.scale, _mm256_set1_ps(x.scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale, acc)
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q4(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        |block, half| unpack(block, half),
        |w, x, acc| step(w, x, acc),
    );
}
