//! The sums of [`chaski_quant::scalar`], faster.
//!
//! ```
//! use chaski_kernels_simd::Kernels;
//!
//! let kernels = Kernels::best();
//! let mut x = [1.0, 2.0, 3.0];
//! kernels.add(&mut x, &[0.5; 3]);
//! assert_eq!(x, [1.5, 2.5, 3.5], "{}", kernels.level());
//! ```
//!
//! [`Kernels`] is a table of functions, one table for each [`Level`] of instructions. Every function
//! of every table gives the bits that `chaski_quant::scalar` gives, for all inputs whose results are
//! finite: lanes hold independent outputs, and within a lane the order of operations is the oracle's.
//! Where the oracle's result is not finite the kernels' is not either, but its bits may differ.
//!
//! # Adding a level
//!
//! A folder `src/<arch>/<level>/` with one file for each operation, named as in the other folders,
//! and a table in its `mod.rs`; an operation that gains nothing takes the function of a lower level.
//! Then a variant of [`Level`] and a line in `table.rs`. The tests walk all levels.
//!
//! # Unsafe
//!
//! Kernels are safe functions with `#[target_feature]`; slices are cut by ordinary indexing. What is
//! unsafe: the calls through the table (the CPU must have the level, which holding a `&'static
//! Kernels` proves) in `table.rs`; in each level's `load.rs` loads and stores of vectors (which check
//! the length first), and an empty `asm!` that keeps the compiler from moving instructions across it;
//! reads of activations in `row_view.rs`; instructions that have no stable intrinsic in `ops.rs`. No
//! other file may hold `unsafe`.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aarch64;
mod error;
mod level;
mod plain;
#[cfg(target_arch = "x86_64")]
mod row_view;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use error::LevelError;
pub use level::Level;
pub use table::{Kernels, prefetch};
