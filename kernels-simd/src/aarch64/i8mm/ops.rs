//! The matrix product, whose intrinsic is not stable: the only `unsafe` of this level.
#![allow(unsafe_code)] // instructions

use std::arch::{
    aarch64::{int8x16_t, int32x4_t},
    asm,
};

/// `acc`, `[2, 2]`, and the products of the two rows of 8 bytes of `x` with the two of `w`:
/// `x0 . w0, x0 . w1, x1 . w0, x1 . w1`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn matmul_2x2(acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: the instruction, which this function's features include, reads and writes nothing but
    // its registers.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
            acc = inout(vreg) acc,
            x = in(vreg) x,
            w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
