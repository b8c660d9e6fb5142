//! RMSNorm.

use std::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_setzero_ps,
};

use super::load::{load_f32x8, store_f32x8};

/// Adds 16 lanes in the fixed tree; see [`chaski_quant::scalar::tree16`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn tree16(lanes: [__m256; 2]) -> f32 {
    let x8 = _mm256_add_ps(lanes[0], lanes[1]);
    let x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps::<1>(x8));
    let x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)))
}

/// See [`chaski_quant::scalar::rms_norm`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [_mm256_setzero_ps(); 2];
    let (whole, rest) = x.as_chunks::<16>();
    // Zeros at the end leave their lanes as they are: no lane is ever -0.
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    for x in whole.iter().chain([&last]) {
        for half in 0..2 {
            let x = load_f32x8(x, 8 * half);
            lanes[half] = _mm256_fmadd_ps(x, x, lanes[half]);
        }
    }
    let inverse = 1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt();
    let end = x.len() / 8 * 8;
    for i in (0..end).step_by(8) {
        let scaled = _mm256_mul_ps(load_f32x8(x, i), _mm256_set1_ps(inverse));
        store_f32x8(out, i, _mm256_mul_ps(scaled, load_f32x8(weight, i)));
    }
    for i in end..x.len() {
        out[i] = (x[i] * inverse) * weight[i];
    }
}
