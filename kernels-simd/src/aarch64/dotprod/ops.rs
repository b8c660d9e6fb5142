//! The dot product, whose intrinsic is not stable: the only `unsafe` of this level.
#![allow(unsafe_code)] // instructions

use std::arch::{
    aarch64::{int8x16_t, int32x4_t},
    asm,
};

/// To each lane of `acc` the dot product of its four bytes of `w` and lane `LANE`'s of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot4<const LANE: i32>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: the instruction, which this function's features include, reads and writes nothing but
    // its registers.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// To each lane (a matrix row) of `acc` the dot product of its 16 bytes in four groups and `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(in crate::aarch64) fn dot16(acc: int32x4_t, w: &[int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    let acc = dot4::<0>(acc, w[0], x);
    let acc = dot4::<1>(acc, w[1], x);
    let acc = dot4::<2>(acc, w[2], x);
    dot4::<3>(acc, w[3], x)
}
