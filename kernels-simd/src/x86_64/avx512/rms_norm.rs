//! RMSNorm.

use std::arch::x86_64::{
    __m512, _mm512_castps512_ps256, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};

use super::load::{load_f32_padded, store_f32_padded};
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
    // Zeros at the end leave their lanes as they are: no lane is ever -0.
    for x in x.chunks(16) {
        let x = load_f32_padded(x);
        lanes = _mm512_fmadd_ps(x, x, lanes);
    }
    let inverse = _mm512_set1_ps(1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt());
    for ((x, weight), out) in x.chunks(16).zip(weight.chunks(16)).zip(out.chunks_mut(16)) {
        let scaled = _mm512_mul_ps(load_f32_padded(x), inverse);
        store_f32_padded(out, _mm512_mul_ps(scaled, load_f32_padded(weight)));
    }
}
