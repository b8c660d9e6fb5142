//! The level `avx2`: AVX2, FMA and F16C, 8 lanes of 32 bits.
//!
//! A 64-byte vector of quants is 16 rows by 4 weights: two registers, the *halves*, rows 0..8 and
//! 8..16. `maddubs` and `madd` add neighbours within a lane of 32 bits, so lane = row from the
//! first product to the last sum.

mod add;
pub(super) mod attend_tile;
mod dequantize_row;
mod exp;
mod float_sweep;
pub(super) mod load;
mod matmul_bf16;
mod matmul_f16;
mod matmul_f32;
pub(super) mod matmul_q3;
pub(super) mod matmul_q4;
pub(super) mod matmul_q4h;
pub(super) mod matmul_q5;
pub(super) mod matmul_q6;
pub(super) mod matmul_q8;
pub(super) mod merge;
pub(super) mod panel;
mod products;
mod quantize_row;
pub(super) mod rms_norm;
mod rope;
mod store;
pub(super) mod sweep;
mod swiglu;

use std::arch::is_x86_feature_detected;

use crate::{Kernels, Level};

/// Whether this CPU has what [`TABLE`]'s functions enable: `avx2,fma,f16c`, in every file of this
/// folder.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// The kernels of this folder.
pub(crate) const TABLE: Kernels = Kernels {
    level: Level::Avx2,
    quantize_row: quantize_row::quantize_row,
    matmul: [
        matmul_f32::matmul_f32,
        matmul_f16::matmul_f16,
        matmul_bf16::matmul_bf16,
        matmul_q4::matmul_q4,
        matmul_q4h::matmul_q4h,
        matmul_q5::matmul_q5,
        matmul_q6::matmul_q6,
        matmul_q8::matmul_q8,
        matmul_q3::matmul_q3,
    ],
    rms_norm: rms_norm::rms_norm,
    rope: rope::rope,
    swiglu: swiglu::swiglu,
    add: add::add,
    store_key: store::store_key,
    store_value: store::store_value,
    attend_tile: attend_tile::attend_tile,
    merge: merge::merge,
    finish: merge::finish,
    dequantize_row: dequantize_row::dequantize_row,
};
