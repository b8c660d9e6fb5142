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
        /// 2^16; set by [`matrix_launch`]. The kernels' compiler is not to know it: what it would make a shift stays a
        /// multiplication, whose unit has less to do.
        pub half_turn: u32,
    }
}

/// Threads of a block of matvec.
const MATVEC_THREADS: u32 = 288;
/// Most blocks of matvec for each multiprocessor.
const MATVEC_BLOCKS: u32 = 3;
/// Bytes of shared memory that the driver takes of each block.
const RESERVED_SHARED: u32 = 1024;
/// Bytes of a column of matvec's results: 16 rows of two floats, and padding.
const MATVEC_COLUMN: u32 = 144;
/// Matrix blocks of the ring of a warp of matvec.
const MATVEC_RING: u32 = 16;
/// Rows of activations of a block of matmul.
const MATMUL_COLUMNS: u32 = 64;
/// Matrix blocks of a stage of matmul.
const MATMUL_CHUNK: u32 = 4;
/// Tiles of a warp of matmul.
const MATMUL_TILES: u32 = 2;
/// Most warps of a block of matmul.
const MATMUL_WARPS: u32 = 8;
/// Tiles of a block of [`Kernel::MatrixFloat`].
const FLOAT_TILES: u32 = 2;
/// Bytes of a stage, of each tile, of [`Kernel::MatrixFloat`].
const FLOAT_STAGE: u32 = 1024;

/// The kernel and the launch for matrices of type `qtype`; sets the fields of `args` that belong to it.
///
/// `args.parts`, `args.rows` and `args.n_blocks` must be set.
pub fn matrix_launch(
    qtype: QuantType,
    args: &mut MatrixArgs,
    device: &DeviceInfo,
) -> (Kernel, Shape) {
    args.n_tiles = args.parts.iter().map(|part| part.n_tiles).sum();
    args.half_turn = 1 << 16;
    let (kernel, shape) = if !qtype.is_quantized() {
        (Kernel::MatrixFloat(qtype), float_shape(args))
    } else if args.rows <= MATVEC_ROWS {
        (Kernel::Matvec(qtype), matvec_shape(qtype, args, device))
    } else {
        (Kernel::Matmul(qtype), matmul_shape(qtype, args, device))
    };
    debug_assert!(shape.shared <= MAX_SHARED, "{kernel:?}: {shape:?}");
    (kernel, shape)
}

/// `FloatPlan` in `kernels/matrix_float.cu`.
fn float_shape(args: &MatrixArgs) -> Shape {
    // The kernel is there for 1, 2, 4, 8 and 16 rows.
    let rows = args.rows.next_power_of_two().min(16);
    let stages = if rows <= 2 { 16 } else { 8 };
    Shape {
        grid: [
            args.n_tiles.div_ceil(FLOAT_TILES),
            args.rows.div_ceil(rows),
            1,
        ],
        threads: 32,
        shared: stages * (FLOAT_TILES * FLOAT_STAGE + rows * 128),
    }
}

/// `MatvecPlan` in `kernels/matvec.h`.
fn matvec_shape(qtype: QuantType, args: &MatrixArgs, device: &DeviceInfo) -> Shape {
    // The kernel is there for 1, 2, 4 and 8 rows.
    let rows = args.rows.next_power_of_two();
    let columns = rows * if qtype == QuantType::Q4H { 2 } else { 1 };
    let block_bytes = qtype.tile_block_bytes() as u32;
    // Matrix blocks that a producing warp hands over at once, and buffers for what it hands over.
    let item = if columns > 8 { 4 } else { 8 };
    let buffers = match columns {
        1 => 2,
        2 if block_bytes < 300 => 2,
        _ => 1,
    };
    let producers = MATVEC_THREADS / 32 - rows.div_ceil(2);
    let results = buffers * item * columns * MATVEC_COLUMN;
    let ring = MATVEC_RING * block_bytes;
    let shared = producers * (results + ring);
    // Blocks walk the tiles, so all are to be there from the beginning. A multiprocessor has what its largest block may have.
    let fit = (device.shared + RESERVED_SHARED) / (shared + RESERVED_SHARED);
    let blocks = device.multiprocessors * fit.clamp(1, MATVEC_BLOCKS);
    Shape {
        grid: [args.n_tiles.min(blocks), 1, 1],
        threads: MATVEC_THREADS,
        shared,
    }
}

/// `MatmulPlan` in `kernels/matmul.h`.
fn matmul_shape(qtype: QuantType, args: &MatrixArgs, device: &DeviceInfo) -> Shape {
    let columns = args.rows.div_ceil(MATMUL_COLUMNS);
    // Fewer tiles a block where the multiprocessors would not all have one.
    let mut warps = MATMUL_WARPS;
    let blocks = |warps| args.n_tiles.div_ceil(MATMUL_TILES * warps) * columns;
    while warps > 2 && blocks(warps) < 2 * device.multiprocessors {
        warps /= 2;
    }
    let block_bytes = qtype.tile_block_bytes() as u32;
    let stages = if block_bytes < 400 { 3 } else { 2 };
    let tiles = MATMUL_TILES * warps * block_bytes;
    let activations = (MATMUL_COLUMNS * 32 + 32) + MATMUL_COLUMNS * 4;
    Shape {
        // Blocks that read the same tiles are neighbours.
        grid: [columns, args.n_tiles.div_ceil(MATMUL_TILES * warps), 1],
        threads: 32 * warps,
        shared: stages * MATMUL_CHUNK * (tiles + activations),
    }
}
