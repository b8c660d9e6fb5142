//! Between the matrices: norm, SwiGLU, quantisation.

use chaski_quant::BLOCK;

use super::{Shape, pack::args};

/// Where element `k` (0..32) of a block's codes stands, 0..32: words 0 to 7 in the order 0 4 1 5 2 6 3 7.
///
/// Words `t` and `t + 4` are what a thread needs together for `mma.m16n8k32` (rows `4 t ..` and `16 + 4 t ..` of B).
pub const fn code_position(k: usize) -> usize {
    let (word, byte) = (k / 4, k % 4);
    (word % 4 * 2 + word / 4) * 4 + byte
}

args! {
    /// The 8-bit form of activations.
    pub struct Codes {
        /// i8 `[rows, n_blocks, 32]`, words in their order of `code_position`; 0: none, then the other two are not written either.
        pub codes: u64,
        /// f32 `[rows, n_blocks]`.
        pub scales: u64,
        /// i16 `[rows, n_blocks, 2]`.
        pub sums: u64,
        /// f32 `[rows, n_blocks * 32]`: the numbers themselves, padded with zeros, or 0. May be what was read.
        pub floats: u64,
        /// Blocks of a row.
        pub n_blocks: u32,
        /// 1: `floats` are what the codes stand for (`f32(code) * d`) instead of the numbers.
        pub round: u32,
    }
}

args! {
    /// RMSNorm of rows, and their 8-bit form.
    pub struct NormQuantizeArgs {
        /// f32 `[.., x_stride]`.
        pub x: u64,
        /// f32 `[dim]`.
        pub weight: u64,
        /// u32 `[rows]`: the row of `x` that becomes row `i` of the result; 0: the same one.
        pub row_index: u64,
        /// The result.
        pub out: Codes,
        /// Floats from a row of `x` to the next.
        pub x_stride: u32,
        /// Elements of a row; `out.n_blocks` are `ceil(dim / 32)`.
        pub dim: u32,
        /// Added to the mean square.
        pub eps: f32,
        /// Not used.
        pub pad: u32,
    }
}

/// Most threads of a block of [`Kernel::NormQuantize`](super::Kernel::NormQuantize).
const NORM_THREADS: u32 = 1024;

impl NormQuantizeArgs {
    /// A block of threads for each row: one thread for four elements, up to 4096 of them.
    pub const fn shape(&self, rows: u32) -> Shape {
        let threads = (self.out.n_blocks * BLOCK as u32 / 4).next_multiple_of(32);
        Shape {
            grid: [rows, 1, 1],
            threads: if threads < NORM_THREADS {
                threads
            } else {
                NORM_THREADS
            },
            shared: 0,
        }
    }
}

/// Elements that a block of 256 threads quantises: 4 for each thread.
const ELEMENTS: u32 = 1024;

const fn pieces(rows: u32, n_blocks: u32) -> Shape {
    Shape {
        grid: [(n_blocks * BLOCK as u32).div_ceil(ELEMENTS), rows, 1],
        threads: 256,
        shared: 0,
    }
}

args! {
    /// The 8-bit form of rows of floats. `n_blocks` is `ceil(n / 32)`.
    pub struct QuantizeArgs {
        /// f32 `[rows, x_stride]`; what lies behind `n` elements of a row is not read.
        pub x: u64,
        /// The result.
        pub out: Codes,
        /// Floats from a row of `x` to the next.
        pub x_stride: u32,
        /// Elements of a row.
        pub n: u32,
    }
}

impl QuantizeArgs {
    /// A block of threads for each 1024 elements of each row. `rows` <= 65535.
    pub const fn shape(&self, rows: u32) -> Shape {
        pieces(rows, self.out.n_blocks)
    }
}

args! {
    /// `(gate / (1 + exp(-gate))) * up`, and its 8-bit form. `n_blocks` is `ceil(n / 32)`.
    pub struct SwigluArgs {
        /// f32 `[rows, stride]`.
        pub gate: u64,
        /// f32 `[rows, stride]`.
        pub up: u64,
        /// The result.
        pub out: Codes,
        /// Floats from a row of `gate`, and of `up`, to the next.
        pub stride: u32,
        /// Elements of a row.
        pub n: u32,
    }
}

impl SwigluArgs {
    /// A block of threads for each 1024 elements of each row. `rows` <= 65535.
    pub const fn shape(&self, rows: u32) -> Shape {
        pieces(rows, self.out.n_blocks)
    }
}
