//! Activations to 8 bits.

use std::arch::x86_64::{
    __m128i, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_dpbusd_epi32, _mm_set1_epi8,
    _mm_setzero_si128, _mm_shuffle_epi32, _mm512_abs_ps, _mm512_castps_si512, _mm512_cvtepi32_epi8,
    _mm512_cvtps_epi32, _mm512_max_epu32, _mm512_mul_ps, _mm512_reduce_max_epu32, _mm512_set1_ps,
};

use chaski_quant::{BLOCK, acts::ActRowMut, scalar::ACT_AMAX_MIN};

use super::load::{load_f32x16, store_i8x16};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sum_codes(codes: __m128i) -> i16 {
    let x = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), codes);
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x))) as i16
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn quantize_block(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> (f32, [i16; 2]) {
    let x = [load_f32x16(x, 0), load_f32x16(x, 16)];
    let [a, b]: [__m512i; 2] = x.map(|x| _mm512_castps_si512(_mm512_abs_ps(x)));
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

/// See [`chaski_quant::scalar::quantize_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn quantize_row(row: &mut ActRowMut<'_>) {
    let (x, _) = row.floats.as_chunks::<BLOCK>();
    let (codes, _) = row.codes.as_chunks_mut::<BLOCK>();
    let out = row.scales.iter_mut().zip(row.sums.iter_mut());
    for ((x, codes), (scale, sums)) in x.iter().zip(codes).zip(out) {
        (*scale, *sums) = quantize_block(x, codes);
    }
}
