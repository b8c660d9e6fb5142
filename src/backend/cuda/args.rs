//! What the kernels are handed: one structure each, passed by value.
//!
//! They are written word by word, with the larger fields first, so that a declaration of the same fields in C++ has no
//! padding either. That declaration is `kernels/args.h`, and a test compares all offsets.
//!
//! Addresses are of the device and stand for arrays; 0 stands for none where a field says so. Sizes are elements
//! unless bytes are named. A row of activations is a token of the pass. All arrays are aligned to 256 bytes, and so are
//! the strides of tiles to 64.
//!
//! *Codes*, *scales* and *sums* are the 8-bit form of activations (`docs/numerics.md`):
//!
//! ```text
//! codes    i8   [rows, n_blocks, 32]   the 4-byte words of a block stand in the order 0 4 1 5 2 6 3 7, see `code_position`
//! scales   f32  [rows, n_blocks]
//! sums     i16  [rows, n_blocks, 2]    sums of the codes 0..16 and 16..32
//! ```
//!
//! Every structure has a function that gives the launch: grid, threads and dynamic shared memory.

use super::device::DeviceInfo;

mod attention;
mod elementwise;
mod kernel;
mod matrix;
mod pack;
mod probe;

pub use attention::{
    AttendArgs, AttendMergeArgs, AttendRowsArgs, MAX_HEAD_DIM, MAX_QUERIES, PoolArgs, QueryRow,
    RopeStoreArgs, RowBlock, Slot, kv_type_id,
};
pub use elementwise::{Codes, NormQuantizeArgs, QuantizeArgs, SwigluArgs, code_position};
pub use kernel::Kernel;
pub use matrix::{MATVEC_ROWS, MatrixArgs, MatrixPart, PARTS, matrix_launch};
pub use pack::{Args, Field, MAX_WORDS, Packed};
pub use probe::ReadProbeArgs;

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory. Above 48 KiB the function has to be told first
    /// (`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`).
    pub shared: u32,
}

/// Dynamic shared memory that every device of compute capability 8.0 and later has: 99 KiB.
pub const MAX_SHARED: u32 = 99 << 10;
