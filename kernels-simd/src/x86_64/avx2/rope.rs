//! Rotation of the pairs of a head.

use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_fmsub_ps, _mm256_mul_ps};

use super::load::{load_f32x8, store_f32x8};

/// See [`chaski_quant::scalar::rope`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let h = cos.len();
    let whole = h / 8 * 8;
    let (a, b) = x.split_at_mut(h);
    for i in (0..whole).step_by(8) {
        let (x0, x1) = (load_f32x8(a, i), load_f32x8(b, i));
        let (cos, sin) = (load_f32x8(cos, i), load_f32x8(sin, i));
        store_f32x8(a, i, _mm256_fmsub_ps(x0, cos, _mm256_mul_ps(x1, sin)));
        store_f32x8(b, i, _mm256_fmadd_ps(x1, cos, _mm256_mul_ps(x0, sin)));
    }
    for i in whole..h {
        let (x0, x1) = (a[i], b[i]);
        a[i] = x0.mul_add(cos[i], -(x1 * sin[i]));
        b[i] = x1.mul_add(cos[i], x0 * sin[i]);
    }
}
