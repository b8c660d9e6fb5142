//! RMSNorm.

use std::arch::x86_64::{
    __m512, _mm512_castps512_ps256, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};

use super::load::{load_f32_padded, load_f32x16, store_f32_padded, store_f32x16};
use crate::x86_64::avx2::rms_norm as avx2;

/// Adds 16 lanes in the fixed tree; see [`chaski_quant::scalar::tree16`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn tree16(lanes: __m512) -> f32 {
    avx2::tree16([
        _mm512_castps512_ps256(lanes),
        _mm512_extractf32x8_ps::<1>(lanes),
    ])
}

/// See [`chaski_quant::scalar::rms_norm`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = _mm512_setzero_ps();
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        let x = load_f32x16(x, 0);
        lanes = _mm512_fmadd_ps(x, x, lanes);
    }
    // Zeros at the end leave their lanes as they are: no lane is ever -0.
    let last = load_f32_padded(rest);
    lanes = _mm512_fmadd_ps(last, last, lanes);
    let inverse = _mm512_set1_ps(1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt());
    let (weights, weight) = weight.as_chunks::<16>();
    // Whole vectors without a mask: a masked store is not forwarded to the load of whoever reads it next, the quantiser.
    let (outs, out) = out.as_chunks_mut::<16>();
    for ((x, weight), out) in whole.iter().zip(weights).zip(outs) {
        let scaled = _mm512_mul_ps(load_f32x16(x, 0), inverse);
        store_f32x16(out, 0, _mm512_mul_ps(scaled, load_f32x16(weight, 0)));
    }
    if !rest.is_empty() {
        let scaled = _mm512_mul_ps(last, inverse);
        store_f32_padded(out, _mm512_mul_ps(scaled, load_f32_padded(weight)));
    }
}
