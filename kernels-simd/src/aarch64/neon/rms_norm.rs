//! RMSNorm.

use std::arch::aarch64::{
    float32x4_t, vadd_f32, vaddq_f32, vdupq_n_f32, vfmaq_f32, vget_high_f32, vget_lane_f32,
    vget_low_f32, vmulq_f32, vmulq_n_f32,
};

use super::load::{load_f32x4, store_f32x4};

/// Adds 16 lanes in the fixed tree; see [`chaski_quant::scalar::tree16`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn tree16(lanes: [float32x4_t; 4]) -> f32 {
    let x8 = [vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3])];
    let x4 = vaddq_f32(x8[0], x8[1]);
    let x2 = vadd_f32(vget_low_f32(x4), vget_high_f32(x4));
    vget_lane_f32::<0>(x2) + vget_lane_f32::<1>(x2)
}

/// See [`chaski_quant::scalar::rms_norm`].
#[target_feature(enable = "neon")]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [vdupq_n_f32(0.0); 4];
    let (whole, rest) = x.as_chunks::<16>();
    // Zeros at the end leave their lanes as they are: no lane is ever -0.
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    for x in whole.iter().chain([&last]) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            let x = load_f32x4(x, 4 * i);
            *lane = vfmaq_f32(*lane, x, x);
        }
    }
    let inverse = 1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt();
    let end = x.len() / 4 * 4;
    for i in (0..end).step_by(4) {
        let scaled = vmulq_n_f32(load_f32x4(x, i), inverse);
        store_f32x4(out, i, vmulq_f32(scaled, load_f32x4(weight, i)));
    }
    for i in end..x.len() {
        out[i] = (x[i] * inverse) * weight[i];
    }
}
