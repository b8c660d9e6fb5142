//! The oracle: short, plain code that defines every result, bit for bit.
//!
//! A kernel may do the same operations on many lanes at once; it may not reorder, fuse or split a
//! single one. `docs/numerics.md` says the same in prose. `fma` is the correctly rounded fused
//! multiply-add ([`f32::mul_add`]), everything else is one IEEE operation with ties to even.

mod acts;
pub mod attention;
mod elementwise;
mod math;
mod matmul;

pub use acts::{ACT_AMAX_MIN, largest_magnitude, quantize_block, quantize_row};
pub use elementwise::{add, rms_norm, rope, swiglu};
pub use math::{exp, sum16, tree16};
pub use matmul::{dequantize_row, dequantize_tile, float_weight, matmul, row_dot};
