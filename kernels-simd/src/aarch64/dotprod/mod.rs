//! The level `dotprod`: four 8-bit products a lane in one instruction. All else is `neon`'s.

pub(super) mod matmul_q4;
pub(super) mod matmul_q4h;
pub(super) mod matmul_q5;
pub(super) mod matmul_q6;
pub(super) mod matmul_q8;
mod ops;
mod sweep;

use std::arch::is_aarch64_feature_detected;

use super::neon;
use chaski_quant::scalar;

use crate::{Kernels, Level};

/// Whether this CPU has what [`TABLE`]'s functions enable: `neon,dotprod`, in every file of this
/// folder.
pub(crate) fn is_available() -> bool {
    neon::is_available() && is_aarch64_feature_detected!("dotprod")
}

/// The kernels of this folder, and `neon`'s.
pub(crate) static TABLE: Kernels = Kernels {
    level: Level::Dotprod,
    matmul: [
        neon::TABLE.matmul[0],
        neon::TABLE.matmul[1],
        neon::TABLE.matmul[2],
        matmul_q4::matmul_q4,
        matmul_q4h::matmul_q4h,
        matmul_q5::matmul_q5,
        matmul_q6::matmul_q6,
        matmul_q8::matmul_q8,
        scalar::matmul,
    ],
    ..neon::TABLE
};
