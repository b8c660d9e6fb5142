//! The dot product, whose intrinsic is not stable: the only `unsafe` of this level.
#![allow(unsafe_code)] // instructions

use std::arch::{
    aarch64::{int8x16_t, int32x4_t},
    asm,
};

/// To each lane (a matrix row) of `acc` the dot product of its 16 bytes, four in each of the groups
/// `w`, and `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn dot16(acc: int32x4_t, w: &[int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: the instructions, which this function's features include, read and write nothing but
    // their registers.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w0:v}.16b, {x:v}.4b[0]",
            "sdot {acc:v}.4s, {w1:v}.16b, {x:v}.4b[1]",
            "sdot {acc:v}.4s, {w2:v}.16b, {x:v}.4b[2]",
            "sdot {acc:v}.4s, {w3:v}.16b, {x:v}.4b[3]",
            acc = inout(vreg) acc,
            w0 = in(vreg) w[0],
            w1 = in(vreg) w[1],
            w2 = in(vreg) w[2],
            w3 = in(vreg) w[3],
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
