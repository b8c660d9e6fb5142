//! Activations to 8 bits.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_max_epu32, _mm_shuffle_epi32,
    _mm256_and_si256, _mm256_castps_si256, _mm256_castsi256_si128, _mm256_cvtps_epi32,
    _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_epu32,
    _mm256_mul_ps, _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permutevar8x32_epi32,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_setzero_si256,
};

use chaski_quant::{BLOCK, acts::ActRowMut, scalar::ACT_AMAX_MIN};

use super::load::{load_f32x8, store_i8x32};

/// The largest of 8 unsigned lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn max_lane(x: __m256i) -> u32 {
    let x = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
    _mm_cvtsi128_si32(x).cast_unsigned()
}

/// See [`chaski_quant::scalar::largest_magnitude`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn largest_magnitude(x: &[f32]) -> f32 {
    let mut max = _mm256_setzero_si256();
    let whole = x.len() / 8 * 8;
    for i in (0..whole).step_by(8) {
        let bits = _mm256_castps_si256(load_f32x8(x, i));
        max = _mm256_max_epu32(max, _mm256_and_si256(bits, _mm256_set1_epi32(i32::MAX)));
    }
    let rest = x[whole..].iter().map(|v| v.abs().to_bits());
    f32::from_bits(rest.fold(max_lane(max), u32::max))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_lanes(x: __m128i) -> i16 {
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x))) as i16
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_block(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> (f32, [i16; 2]) {
    let amax = largest_magnitude(x);
    if amax < ACT_AMAX_MIN {
        codes.fill(0);
        return (0.0, [0; 2]);
    }
    let inverse = _mm256_set1_ps(127.0 / amax);
    // The conversion rounds ties to even.
    let code = |i: usize| _mm256_cvtps_epi32(_mm256_mul_ps(load_f32x8(x, 8 * i), inverse));
    let low = _mm256_packs_epi32(code(0), code(1));
    let high = _mm256_packs_epi32(code(2), code(3));
    // Packing works within halves of 128 bits: the lanes hold codes 0-3, 8-11, 16-19, 24-27, 4-7 ...
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    store_i8x32(codes, packed);
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let sums = [
        sum_lanes(_mm256_castsi256_si128(fours)),
        sum_lanes(_mm256_extracti128_si256::<1>(fours)),
    ];
    (amax / 127.0, sums)
}

/// See [`chaski_quant::scalar::quantize_row`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn quantize_row(row: &mut ActRowMut<'_>) {
    let (x, _) = row.floats.as_chunks::<BLOCK>();
    let (codes, _) = row.codes.as_chunks_mut::<BLOCK>();
    let out = row.scales.iter_mut().zip(row.sums.iter_mut());
    for ((x, codes), (scale, sums)) in x.iter().zip(codes).zip(out) {
        (*scale, *sums) = quantize_block(x, codes);
    }
}
