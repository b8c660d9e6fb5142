//! 64-bit Arm.
//!
//! `neon` is what every such CPU has, and holds what all levels share: everything but the sums of
//! 8-bit products. `dotprod` and `i8mm` replace those.

pub(crate) mod dotprod;
pub(crate) mod i8mm;
pub(crate) mod neon;
