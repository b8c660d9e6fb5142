//! The exponential of 4 lanes.

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddq_s32, vcvtq_s32_f32, vdupq_n_f32, vdupq_n_s32, vfmaq_f32,
    vmaxq_f32, vminq_f32, vmulq_f32, vreinterpretq_f32_s32, vrndnq_f32, vshlq_n_s32,
};

/// See [`chaski_quant::scalar::exp`], in each lane.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn exp(x: float32x4_t) -> float32x4_t {
    // These two give NaN where one operand is NaN, so NaN passes; neither limit is a zero.
    let x = vmaxq_f32(x, vdupq_n_f32(-87.0));
    let x = vminq_f32(x, vdupq_n_f32(88.0));
    let n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(std::f32::consts::LOG2_E)));
    let r = vfmaq_f32(x, n, vdupq_n_f32(-0.693_359_4));
    let r = vfmaq_f32(r, n, vdupq_n_f32(2.121_944_4e-4));
    let mut p = vdupq_n_f32(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = vfmaq_f32(vdupq_n_f32(c), p, r);
    }
    let y = vfmaq_f32(r, p, vmulq_f32(r, r));
    let y = vaddq_f32(y, vdupq_n_f32(1.0));
    let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    vmulq_f32(y, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
}
