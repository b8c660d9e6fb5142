//! Rotation of the pairs of a head.

use std::arch::aarch64::{vfmaq_f32, vmulq_f32, vnegq_f32};

use super::load::{load_f32x4, store_f32x4};

/// See [`chaski_quant::scalar::rope`].
#[target_feature(enable = "neon")]
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let h = cos.len();
    let whole = h / 4 * 4;
    let (a, b) = x.split_at_mut(h);
    for i in (0..whole).step_by(4) {
        let (x0, x1) = (load_f32x4(a, i), load_f32x4(b, i));
        let (cos, sin) = (load_f32x4(cos, i), load_f32x4(sin, i));
        store_f32x4(a, i, vfmaq_f32(vnegq_f32(vmulq_f32(x1, sin)), x0, cos));
        store_f32x4(b, i, vfmaq_f32(vmulq_f32(x0, sin), x1, cos));
    }
    for i in whole..h {
        let (x0, x1) = (a[i], b[i]);
        a[i] = x0.mul_add(cos[i], -(x1 * sin[i]));
        b[i] = x1.mul_add(cos[i], x0 * sin[i]);
    }
}
