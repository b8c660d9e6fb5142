//! The level `neon`: the base instruction set, 4 lanes of 32 bits.
//!
//! Without a dot product, 8-bit products are summed in 16 bits as long as they fit: a lane is one
//! weight of a group, and the four lanes of a row are added at the end of a block.

mod add;
mod attend_tile;
pub(super) mod blocks;
mod dequantize_row;
mod exp;
mod float_sweep;
pub(super) mod load;
mod matmul_bf16;
mod matmul_f16;
mod matmul_f32;
pub(super) mod matmul_q4;
pub(super) mod matmul_q4h;
pub(super) mod matmul_q5;
pub(super) mod matmul_q6;
pub(super) mod matmul_q8;
mod merge;
mod ops;
mod quantize_row;
mod rms_norm;
mod rope;
mod store;
mod sweep;
mod swiglu;

use std::arch::is_aarch64_feature_detected;

use chaski_quant::scalar;

use crate::{Kernels, Level};

/// Whether this CPU has what [`TABLE`]'s functions enable: `neon`, in every file of this folder.
pub(crate) fn is_available() -> bool {
    is_aarch64_feature_detected!("neon")
}

/// The kernels of this folder.
pub(crate) static TABLE: Kernels = Kernels {
    level: Level::Neon,
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
        scalar::matmul,
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
