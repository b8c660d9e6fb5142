//! Activations to 8 bits.

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _CMP_NLT_UQ, _mm_add_epi32, _mm_castsi128_ps,
    _mm_cmp_ps_mask, _mm_cvtsi128_si32, _mm_dpbusd_epi32, _mm_mask_blend_epi16, _mm_maskz_div_ps,
    _mm_max_epu32, _mm_set1_epi8, _mm_set1_ps, _mm_setzero_si128, _mm_shuffle_epi32,
    _mm_slli_epi32, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_dpbusd_epi32,
    _mm256_extracti128_si256, _mm256_max_epu32, _mm256_set_m128i, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm512_abs_ps, _mm512_castps_si512, _mm512_castps128_ps512,
    _mm512_castsi512_si256, _mm512_cvtepi32_epi8, _mm512_cvtps_epi32, _mm512_extracti32x8_epi32,
    _mm512_max_epu32, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_max_epu32,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use chaski_quant::{BLOCK, acts::ActRowMut, scalar::ACT_AMAX_MIN};

use super::load::{load_f32x16, store_f32x4, store_i8x16, store_i8x32, store_pairs4};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sum_codes(codes: __m128i) -> i16 {
    let x = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), codes);
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x))) as i16
}

/// The bits of `|x|`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn magnitude(x: __m512) -> __m512i {
    _mm512_castps_si512(_mm512_abs_ps(x))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn quantize_block(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> (f32, [i16; 2]) {
    let x = [load_f32x16(x, 0), load_f32x16(x, 16)];
    let (a, b) = (magnitude(x[0]), magnitude(x[1]));
    // Magnitudes compare as their bits do.
    let amax = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b)));
    if amax < ACT_AMAX_MIN {
        codes.fill(0);
        return (0.0, [0; 2]);
    }
    let inverse = _mm512_set1_ps(127.0 / amax);
    let mut sums = [0; 2];
    for h in 0..2 {
        // The conversion to integers rounds ties to even.
        let half = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x[h], inverse)));
        store_i8x16(codes, 16 * h, half);
        sums[h] = sum_codes(half);
    }
    (amax / 127.0, sums)
}

/// The largest of each of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn largest(m: [__m512i; 4]) -> __m128i {
    // Each step halves the lanes of a vector and doubles the vectors in one register.
    let max = |a, b| {
        let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        _mm512_max_epu32(low, high)
    };
    let (m01, m23) = (max(m[0], m[1]), max(m[2], m[3]));
    let (low, high) = (
        _mm512_unpacklo_epi64(m01, m23),
        _mm512_unpackhi_epi64(m01, m23),
    );
    let m = _mm512_max_epu32(low, high);
    let m = _mm256_max_epu32(_mm512_castsi512_si256(m), _mm512_extracti32x8_epi32::<1>(m));
    _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m))
}

/// Sums of the halves of four blocks of codes, as pairs of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn half_sums(codes: [__m256i; 4]) -> __m128i {
    let fours = |codes| _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), codes);
    let add = |a, b| {
        let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        _mm256_add_epi32(low, high)
    };
    let s01 = add(fours(codes[0]), fours(codes[1]));
    let s23 = add(fours(codes[2]), fours(codes[3]));
    let (low, high) = (
        _mm256_unpacklo_epi64(s01, s23),
        _mm256_unpackhi_epi64(s01, s23),
    );
    // Lanes 0..4: the low halves of the blocks; 4..8: the high halves.
    let sums = _mm256_add_epi32(low, high);
    let high = _mm_slli_epi32::<16>(_mm256_extracti128_si256::<1>(sums));
    _mm_mask_blend_epi16(0b1010_1010, _mm256_castsi256_si128(sums), high)
}

/// As [`quantize_block`], four blocks side by side: one is a chain of latencies.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn quantize_four(
    x: &[[f32; BLOCK]; 4],
    codes: &mut [[i8; BLOCK]; 4],
    scales: &mut [f32; 4],
    sums: &mut [[i16; 2]; 4],
) {
    let mut m = [_mm512_setzero_si512(); 4];
    for b in 0..4 {
        let (low, high) = (load_f32x16(&x[b], 0), load_f32x16(&x[b], 16));
        m[b] = _mm512_max_epu32(magnitude(low), magnitude(high));
    }
    let amax = _mm_castsi128_ps(largest(m));
    // Not "at least": what is not a number passes, and gives a scale that is not finite.
    let used = _mm_cmp_ps_mask::<_CMP_NLT_UQ>(amax, _mm_set1_ps(ACT_AMAX_MIN));
    let most = _mm_set1_ps(127.0);
    store_f32x4(scales, _mm_maskz_div_ps(used, amax, most));
    let inverses = _mm512_castps128_ps512(_mm_maskz_div_ps(used, most, amax));
    let mut all = [_mm256_setzero_si256(); 4];
    for b in 0..4 {
        let inverse = _mm512_permutexvar_ps(_mm512_set1_epi32(b as i32), inverses);
        let half = |at| {
            let scaled = _mm512_mul_ps(load_f32x16(&x[b], at), inverse);
            // The conversion to integers rounds ties to even.
            _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled))
        };
        all[b] = _mm256_set_m128i(half(16), half(0));
        store_i8x32(&mut codes[b], all[b]);
    }
    store_pairs4(sums, half_sums(all));
}

/// See [`chaski_quant::scalar::quantize_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn quantize_row(row: &mut ActRowMut<'_>) {
    let (x, x_rest) = row.floats.as_chunks::<BLOCK>().0.as_chunks::<4>();
    let (codes, codes_rest) = row.codes.as_chunks_mut::<BLOCK>().0.as_chunks_mut::<4>();
    let (scales, scales_rest) = row.scales.as_chunks_mut::<4>();
    let (sums, sums_rest) = row.sums.as_chunks_mut::<4>();
    let out = scales.iter_mut().zip(sums);
    for ((x, codes), (scales, sums)) in x.iter().zip(codes).zip(out) {
        quantize_four(x, codes, scales, sums);
    }
    let out = scales_rest.iter_mut().zip(sums_rest);
    for ((x, codes), (scale, sums)) in x_rest.iter().zip(codes_rest).zip(out) {
        (*scale, *sums) = quantize_block(x, codes);
    }
}
