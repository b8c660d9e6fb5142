//! Activations to 8 bits.

use std::arch::aarch64::{
    int16x8_t, vaddlvq_s8, vandq_u32, vcombine_s8, vcombine_s16, vcvtnq_s32_f32, vdupq_n_u32,
    vmaxq_u32, vmaxvq_u32, vmovn_s16, vmovn_s32, vmulq_n_f32, vreinterpretq_u32_f32,
};

use chaski_quant::{BLOCK, acts::ActRowMut, scalar::ACT_AMAX_MIN};

use super::load::{load_f32x4, store_i8x16};

/// See [`chaski_quant::scalar::largest_magnitude`].
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn largest_magnitude(x: &[f32]) -> f32 {
    let mut max = vdupq_n_u32(0);
    let whole = x.len() / 4 * 4;
    for i in (0..whole).step_by(4) {
        let bits = vreinterpretq_u32_f32(load_f32x4(x, i));
        max = vmaxq_u32(max, vandq_u32(bits, vdupq_n_u32(u32::MAX >> 1)));
    }
    let rest = x[whole..].iter().map(|v| v.abs().to_bits());
    f32::from_bits(rest.fold(vmaxvq_u32(max), u32::max))
}

/// `round(x[at..at + 8] * inverse)`, ties to even.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn codes8(x: &[f32], at: usize, inverse: f32) -> int16x8_t {
    let low = vcvtnq_s32_f32(vmulq_n_f32(load_f32x4(x, at), inverse));
    let high = vcvtnq_s32_f32(vmulq_n_f32(load_f32x4(x, at + 4), inverse));
    vcombine_s16(vmovn_s32(low), vmovn_s32(high))
}

#[inline]
#[target_feature(enable = "neon")]
fn quantize_block(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> (f32, [i16; 2]) {
    let amax = largest_magnitude(x);
    if amax < ACT_AMAX_MIN {
        codes.fill(0);
        return (0.0, [0; 2]);
    }
    let inverse = 127.0 / amax;
    let mut sums = [0; 2];
    for (half, sum) in sums.iter_mut().enumerate() {
        let low = vmovn_s16(codes8(x, 16 * half, inverse));
        let high = vmovn_s16(codes8(x, 16 * half + 8, inverse));
        let packed = vcombine_s8(low, high);
        store_i8x16(codes, 16 * half, packed);
        *sum = vaddlvq_s8(packed);
    }
    (amax / 127.0, sums)
}

/// See [`chaski_quant::scalar::quantize_row`].
#[target_feature(enable = "neon")]
pub(crate) fn quantize_row(row: &mut ActRowMut<'_>) {
    let (x, _) = row.floats.as_chunks::<BLOCK>();
    let (codes, _) = row.codes.as_chunks_mut::<BLOCK>();
    let out = row.scales.iter_mut().zip(row.sums.iter_mut());
    for ((x, codes), (scale, sums)) in x.iter().zip(codes).zip(out) {
        (*scale, *sums) = quantize_block(x, codes);
    }
}
