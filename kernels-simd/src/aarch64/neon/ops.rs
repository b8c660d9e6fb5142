//! Products of 8 bits, as instructions: from their intrinsics the compiler makes others where it
//! knows something of a factor (16-bit products of widened codes where one is not negative), and
//! those cost more.
#![allow(unsafe_code)] // instructions

use std::arch::{
    aarch64::{int8x16_t, int16x8_t},
    asm,
};

/// `w[0] * x[0] + w[1] * x[1]` in each lane, wrapping: lanes 0..8 and 8..16.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn mul_two(w: [int8x16_t; 2], x: [int8x16_t; 2]) -> [int16x8_t; 2] {
    let (low, high);
    // SAFETY: the instructions, which this function's feature includes, read and write nothing but
    // their registers.
    unsafe {
        asm!(
            "smull {low:v}.8h, {w0:v}.8b, {x0:v}.8b",
            "smull2 {high:v}.8h, {w0:v}.16b, {x0:v}.16b",
            "smlal {low:v}.8h, {w1:v}.8b, {x1:v}.8b",
            "smlal2 {high:v}.8h, {w1:v}.16b, {x1:v}.16b",
            low = out(vreg) low,
            high = out(vreg) high,
            w0 = in(vreg) w[0],
            x0 = in(vreg) x[0],
            w1 = in(vreg) w[1],
            x1 = in(vreg) x[1],
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// `sums + w[0] * x[0] + w[1] * x[1]` in each lane, wrapping.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_two(
    sums: [int16x8_t; 2],
    w: [int8x16_t; 2],
    x: [int8x16_t; 2],
) -> [int16x8_t; 2] {
    let [mut low, mut high] = sums;
    // SAFETY: the instructions, which this function's feature includes, read and write nothing but
    // their registers.
    unsafe {
        asm!(
            "smlal {low:v}.8h, {w0:v}.8b, {x0:v}.8b",
            "smlal2 {high:v}.8h, {w0:v}.16b, {x0:v}.16b",
            "smlal {low:v}.8h, {w1:v}.8b, {x1:v}.8b",
            "smlal2 {high:v}.8h, {w1:v}.16b, {x1:v}.16b",
            low = inout(vreg) low,
            high = inout(vreg) high,
            w0 = in(vreg) w[0],
            x0 = in(vreg) x[0],
            w1 = in(vreg) w[1],
            x1 = in(vreg) x[1],
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}
