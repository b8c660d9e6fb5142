//! A matrix times rows of activations.

use chaski_quant::QuantType;

use super::{DeviceInfo, Kernel, MAX_SHARED, Shape, pack::args};

/// Matrices of one launch.
pub const PARTS: usize = 3;
/// Rows up to which [`Kernel::Matvec`] is used.
pub const MATVEC_ROWS: u32 = 8;

args! {
    /// A matrix of a launch: where its tiles are and where its products go.
    pub struct MatrixPart {
        /// The first tile, aligned to 64 bytes.
        pub tiles: u64,
        /// Bytes from a tile to the next, a multiple of 64.
        pub stride: u64,
        /// f32 `[rows, out_stride]`: row `i` of the activations times row `j` of the matrix goes to `[i, j]`.
        pub out: u64,
        /// f32 `[matrix rows]`, added to each product; 0: none.
        pub bias: u64,
        /// f32 `[rows, out_stride]`, added last; 0: none. May be `out`.
        pub residual: u64,
        /// Floats from a row of `out`, and of `residual`, to the next.
        pub out_stride: u32,
        /// Tiles of the matrix; 0 where the launch has fewer parts.
        pub n_tiles: u32,
        /// Tiles of a row group, `ceil(row_group / 16)`.
        pub tiles_per_group: u32,
        /// Rows of a row group.
        pub row_group: u32,
    }
}

args! {
    /// One to three matrices of one type times the same rows of activations.
    pub struct MatrixArgs {
        /// The matrices; unused ones are behind the used, all zero.
        pub parts: [MatrixPart; PARTS],
        /// i8 `[rows, n_blocks, 32]` ([`Codes`](super::Codes)), for quantised types.
        pub codes: u64,
        /// f32 `[rows, n_blocks]`, for quantised types.
        pub scales: u64,
        /// i16 `[rows, n_blocks, 2]`, for quantised types.
        pub sums: u64,
        /// f32 `[rows, n_blocks * 32]`, padded with zeros, for float types.
        pub x: u64,
        /// Tiles of all parts; set by [`matrix_launch`].
        pub n_tiles: u32,
        /// Blocks of a matrix row, and of a row of activations.
        pub n_blocks: u32,
        /// Rows of activations.
        pub rows: u32,
        /// Blocks that a stage of the pipeline holds; set by [`matrix_launch`].
        pub chunk: u32,
        /// Stages of the pipeline; set by [`matrix_launch`].
        pub stages: u32,
        /// Not used.
        pub pad: u32,
    }
}

/// Warps of a matvec block that multiply; more warps sum.
const MATVEC_WARPS: u32 = 8;
/// Blocks of threads of matvec for each multiprocessor.
const MATVEC_BLOCKS: u32 = 3;
/// Rows of activations of a matmul block.
const MATMUL_COLUMNS: u32 = 64;
/// Matrix blocks of a matmul stage.
const MATMUL_CHUNK: u32 = 4;
/// Most warps, and therefore tiles, of a matmul block.
const MATMUL_WARPS: u32 = 8;
/// Rows of activations of a block of [`Kernel::MatrixFloat`].
const FLOAT_ROWS: u32 = 8;
/// Tiles of a block of [`Kernel::MatrixFloat`].
const FLOAT_TILES: u32 = 2;
/// Bytes of a stage, of each tile, and stages, of [`Kernel::MatrixFloat`].
const FLOAT_STAGE: u32 = 1024;
const FLOAT_STAGES: u32 = 8;

/// The kernel and the launch for matrices of type `qtype`; sets the fields of `args` that belong to it.
///
/// `args.parts`, `args.rows` and `args.n_blocks` must be set.
pub fn matrix_launch(
    qtype: QuantType,
    args: &mut MatrixArgs,
    device: &DeviceInfo,
) -> (Kernel, Shape) {
    args.n_tiles = args.parts.iter().map(|part| part.n_tiles).sum();
    if !qtype.is_quantized() {
        let shape = Shape {
            grid: [
                args.n_tiles.div_ceil(FLOAT_TILES),
                args.rows.div_ceil(FLOAT_ROWS),
                1,
            ],
            threads: 32,
            shared: FLOAT_TILES * FLOAT_STAGE * FLOAT_STAGES,
        };
        (args.chunk, args.stages) = (FLOAT_STAGE, FLOAT_STAGES);
        return (Kernel::MatrixFloat(qtype), shape);
    }
    if args.rows <= MATVEC_ROWS {
        (Kernel::Matvec(qtype), matvec_shape(qtype, args, device))
    } else {
        (Kernel::Matmul(qtype), matmul_shape(qtype, args, device))
    }
}

fn matvec_shape(qtype: QuantType, args: &mut MatrixArgs, device: &DeviceInfo) -> Shape {
    // A stage is a whole number of blocks for each warp, two at a time.
    args.chunk = if args.rows <= 2 { 32 } else { 16 };
    args.stages = 4;
    let halves = if qtype == QuantType::Q4H { 2 } else { 1 };
    // Two buffers of products: of each block, row and lane an integer sum and a scale, as floats.
    let products = 2 * args.chunk * halves * args.rows * 16 * 8;
    let stage = args.chunk * qtype.tile_block_bytes() as u32;
    let shared = products + args.stages * stage;
    debug_assert!(shared <= MAX_SHARED, "{shared} bytes of shared memory");
    Shape {
        grid: [
            args.n_tiles.min(device.multiprocessors * MATVEC_BLOCKS),
            1,
            1,
        ],
        threads: 32 * (MATVEC_WARPS + args.rows.div_ceil(2)),
        shared,
    }
}

fn matmul_shape(qtype: QuantType, args: &mut MatrixArgs, device: &DeviceInfo) -> Shape {
    args.chunk = MATMUL_CHUNK;
    args.stages = 3;
    let columns = args.rows.div_ceil(MATMUL_COLUMNS);
    // Fewer tiles a block where the multiprocessors would not all have one.
    let mut warps = MATMUL_WARPS;
    while warps > 2 && args.n_tiles.div_ceil(warps) * columns < 2 * device.multiprocessors {
        warps /= 2;
    }
    let tiles = warps * MATMUL_CHUNK * qtype.tile_block_bytes() as u32;
    let activations = MATMUL_COLUMNS * MATMUL_CHUNK * (32 + 4);
    let shared = args.stages * (tiles + activations);
    debug_assert!(shared <= MAX_SHARED, "{shared} bytes of shared memory");
    Shape {
        // Blocks that read the same tiles are neighbours.
        grid: [columns, args.n_tiles.div_ceil(warps), 1],
        threads: 32 * warps,
        shared,
    }
}
