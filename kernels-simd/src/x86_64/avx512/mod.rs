//! The levels `avx512` (AVX-512 F, BW, DQ, VL and VNNI) and `avx512vbmi` (and VBMI): 16 lanes of 32
//! bits.
//!
//! A 64-byte vector of quants is one register, 16 rows by 4 weights, and one `vpdpbusd` multiplies it
//! with four activations that come broadcast from memory. With VBMI the panels of Q3, Q4 and Q4H are filled
//! without masking the codes; all else is the same.
//!
//! Loops instead of `array::from_fn` and `map`: a closure that enables instructions is not inlined
//! into a function that does not.
//!
//! What runs once for a row and is a small part of the work (rotation, stores to the KV cache,
//! merging) is taken from `avx2`.

mod attend_tile;
mod exp;
mod float_sweep;
mod load;
mod matmul_bf16;
mod matmul_f16;
mod matmul_f32;
mod matmul_q3;
mod matmul_q4;
mod matmul_q4h;
mod matmul_q5;
mod matmul_q6;
mod matmul_q8;
mod quantize_row;
mod rms_norm;
mod softmax;
mod sweep;
mod swiglu;
mod unpack;

use std::arch::is_x86_feature_detected;

use super::avx2;
use crate::{Kernels, Level};

/// Whether this CPU has what [`TABLE`]'s functions enable:
/// `avx512f,avx512bw,avx512dq,avx512vl,avx512vnni`, in every file of this folder, and what level
/// `avx2` needs.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && avx2::is_available()
}

/// Whether this CPU has what [`VBMI_TABLE`]'s functions enable: `avx512vbmi` as well.
pub(crate) fn vbmi_is_available() -> bool {
    is_available() && is_x86_feature_detected!("avx512vbmi")
}

/// The kernels of this folder.
pub(crate) const TABLE: Kernels = Kernels {
    level: Level::Avx512,
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
    swiglu: swiglu::swiglu,
    attend_tile: attend_tile::attend_tile,
    ..avx2::TABLE
};

/// The same with VBMI.
pub(crate) static VBMI_TABLE: Kernels = Kernels {
    level: Level::Avx512Vbmi,
    matmul: [
        matmul_f32::matmul_f32,
        matmul_f16::matmul_f16,
        matmul_bf16::matmul_bf16,
        matmul_q4::matmul_q4_vbmi,
        matmul_q4h::matmul_q4h_vbmi,
        matmul_q5::matmul_q5,
        matmul_q6::matmul_q6,
        matmul_q8::matmul_q8,
        matmul_q3::matmul_q3_vbmi,
    ],
    ..TABLE
};
