//! Vectors in and out of slices: the only `unsafe` of this level. Each function cuts the slice
//! first, which checks the length; the compiler drops the check where it knows the length.
#![allow(unsafe_code)] // loads and stores

use std::arch::aarch64::{
    float32x4_t, float32x4x4_t, int8x16_t, uint8x8_t, uint8x16_t, uint16x8_t, uint32x4_t, vld1_u8,
    vld1q_f32, vld1q_s8, vld1q_u8, vld1q_u32, vreinterpretq_f32_u8, vreinterpretq_u16_u8,
    vst1q_f32, vst1q_s8, vst1q_u16, vst4q_f32,
};

/// 16 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn load_u8x16(bytes: &[u8], at: usize) -> uint8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: `bytes` is 16 readable bytes, and the load has no alignment requirement.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// 8 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_u8x8(bytes: &[u8], at: usize) -> uint8x8_t {
    let bytes = &bytes[at..at + 8];
    // SAFETY: `bytes` is 8 readable bytes, and the load has no alignment requirement.
    unsafe { vld1_u8(bytes.as_ptr()) }
}

/// 16 codes from `codes[at]`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn load_i8x16(codes: &[i8], at: usize) -> int8x16_t {
    let codes = &codes[at..at + 16];
    // SAFETY: `codes` is 16 readable bytes, and the load has no alignment requirement.
    unsafe { vld1q_s8(codes.as_ptr()) }
}

/// 4 integers.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_u32x4(x: &[u32; 4]) -> uint32x4_t {
    // SAFETY: `x` is 4 readable integers, and the load has no alignment requirement.
    unsafe { vld1q_u32(x.as_ptr()) }
}

/// 8 little-endian 16-bit numbers from `bytes[at]`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_u16x8_le(bytes: &[u8], at: usize) -> uint16x8_t {
    vreinterpretq_u16_u8(load_u8x16(bytes, at))
}

/// 4 little-endian floats from `bytes[at]`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn load_f32x4_le(bytes: &[u8], at: usize) -> float32x4_t {
    vreinterpretq_f32_u8(load_u8x16(bytes, at))
}

/// 4 floats from `x[at]`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn load_f32x4(x: &[f32], at: usize) -> float32x4_t {
    let x = &x[at..at + 4];
    // SAFETY: `x` is 4 readable floats, and the load has no alignment requirement.
    unsafe { vld1q_f32(x.as_ptr()) }
}

/// `x[at..at + 4] = v`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn store_f32x4(x: &mut [f32], at: usize, v: float32x4_t) {
    let x = &mut x[at..at + 4];
    // SAFETY: `x` is 4 writable floats, and the store has no alignment requirement.
    unsafe { vst1q_f32(x.as_mut_ptr(), v) }
}

/// `x[i][n]` = lane `i` of `v[n]`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_transposed(x: &mut [[f32; 4]; 4], v: float32x4x4_t) {
    // SAFETY: `x` is 16 writable floats, and the store has no alignment requirement.
    unsafe { vst4q_f32(x.as_flattened_mut().as_mut_ptr(), v) }
}

/// `codes[at..at + 16] = v`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn store_i8x16(codes: &mut [i8], at: usize, v: int8x16_t) {
    let codes = &mut codes[at..at + 16];
    // SAFETY: `codes` is 16 writable bytes, and the store has no alignment requirement.
    unsafe { vst1q_s8(codes.as_mut_ptr(), v) }
}

/// The 8 lanes of `v`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn to_u16x8(v: uint16x8_t) -> [u16; 8] {
    let mut out = [0; 8];
    // SAFETY: `out` is 16 writable bytes, and the store has no alignment requirement.
    unsafe { vst1q_u16(out.as_mut_ptr(), v) }
    out
}
