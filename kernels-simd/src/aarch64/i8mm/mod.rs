//! The level `i8mm`: products of 2 x 8 by 8 x 2 bytes in one instruction, for many rows of activations.
//! Few rows are `dotprod`'s, all else is `neon`'s.

mod matmul_q4;
mod matmul_q4h;
mod matmul_q5;
mod matmul_q6;
mod matmul_q8;
mod ops;
mod sweep;

use std::arch::is_aarch64_feature_detected;

use super::{dotprod, neon};
use chaski_quant::scalar;

use crate::{Kernels, Level};

/// Whether this CPU has what [`TABLE`]'s functions enable: `neon,dotprod,i8mm`, in every file of
/// this folder.
pub(crate) fn is_available() -> bool {
    dotprod::is_available() && is_aarch64_feature_detected!("i8mm")
}

/// The kernels of this folder, and `neon`'s.
pub(crate) static TABLE: Kernels = Kernels {
    level: Level::I8mm,
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
