//! Rotation, the KV cache and attention.
//!
//! Keys and values are pages of a pool, as on the CPU (`models::forward::kv`), of the device's layers only:
//!
//! ```text
//! pool   [pages] of page_bytes
//! page   [layers on the device][n_kv_heads] tiles of 2 * part_bytes: key part, value part
//! ```

use chaski_quant::scalar::attention::{KV_SPAN, KV_TILE, KvType};

use super::{MAX_SHARED, Shape, pack::args};

/// Elements of a head up to which the kernels go; beyond, layers stay on the CPU.
pub const MAX_HEAD_DIM: u32 = 256;
/// Queries (rows times query heads of a KV head) of a block, at most, of [`Kernel::AttendRows`](super::Kernel::AttendRows).
pub const MAX_QUERIES: u32 = 64;

/// The number that stands for a KV type in arguments.
pub const fn kv_type_id(kv_type: KvType) -> u32 {
    match kv_type {
        KvType::F32 => 0,
        KvType::F16 => 1,
        KvType::Q8 => 2,
    }
}

args! {
    /// Where a row of the pass is in its sequence: an element of `query_rows` on the device, 8 bytes.
    pub struct QueryRow {
        /// Absolute position.
        pub pos: u32,
        /// Where the sequence's pages begin in `page_table`: the page of position `p` is `page_table[table + p / 64]`.
        pub table: u32,
    }
}

args! {
    /// A row's attention within a span of 512 positions: an element of `slots` on the device, 8 bytes.
    pub struct Slot {
        /// The row of the pass.
        pub row: u32,
        /// The span: positions `512 span .. 512 span + 512`.
        pub span: u32,
    }
}

args! {
    /// Rows of one sequence with consecutive indices and rising positions: an element of `row_blocks` on the device, 8 bytes.
    pub struct RowBlock {
        /// First row of the pass.
        pub first: u32,
        /// Rows, at most [`AttendRowsArgs::block_rows`].
        pub n: u32,
    }
}

args! {
    /// The pool, and where a layer's keys and values of the pass's rows are in it.
    pub struct PoolArgs {
        /// The pool.
        pub kv: u64,
        /// u32: pages of the sequences.
        pub page_table: u64,
        /// [`QueryRow`] `[rows]`.
        pub query_rows: u64,
        /// Bytes of a page.
        pub page_bytes: u64,
        /// Bytes from a page's start to the layer's first tile.
        pub layer_offset: u64,
        /// Bytes of a tile's key part, and of its value part.
        pub part_bytes: u32,
        /// KV heads.
        pub n_kv_heads: u32,
    }
}

args! {
    /// QK-norm and rotation of the heads of Q (in place) and K; keys and values into the pool.
    pub struct RopeStoreArgs {
        /// f32 `[rows, q_stride]`, heads one after the other; rewritten.
        pub q: u64,
        /// f32 `[rows, kv_stride]`.
        pub k: u64,
        /// f32 `[rows, kv_stride]`.
        pub v: u64,
        /// f32 `[head_dim]`: weights of the norm of a query head; 0: none.
        pub q_norm: u64,
        /// f32 `[head_dim]`, the same for keys.
        pub k_norm: u64,
        /// f32 `[rows, head_dim]`: `head_dim / 2` cosines, then as many sines, of each row's position.
        pub rope: u64,
        /// Where keys and values are.
        pub pool: PoolArgs,
        /// [`kv_type_id`].
        pub kv_type: u32,
        /// Rows.
        pub rows: u32,
        /// Query heads.
        pub n_heads: u32,
        /// Elements of a head, at most [`MAX_HEAD_DIM`].
        pub head_dim: u32,
        /// Floats from a row of `q` to the next.
        pub q_stride: u32,
        /// Floats from a row of `k`, and of `v`, to the next.
        pub kv_stride: u32,
        /// Of the norms.
        pub eps: f32,
        /// Not used.
        pub pad: u32,
    }
}

/// Heads of a block of [`Kernel::RopeStore`](super::Kernel::RopeStore), a warp each.
const ROPE_WARPS: u32 = 4;

impl RopeStoreArgs {
    /// A warp for each head of Q, K and V of each row. `rows` <= 65535.
    pub const fn shape(&self) -> Shape {
        let heads = self.n_heads + 2 * self.pool.n_kv_heads;
        Shape {
            grid: [heads.div_ceil(ROPE_WARPS), self.rows, 1],
            threads: 32 * ROPE_WARPS,
            shared: 4 * ROPE_WARPS * self.head_dim,
        }
    }
}

args! {
    /// The attention of slots: states of each slot and query head.
    ///
    /// The number of slots lies on the device, so that a recorded launch serves any number up to its grid.
    pub struct AttendArgs {
        /// f32 `[rows, q_stride]`.
        pub q: u64,
        /// f32 `[slots, n_heads, head_dim + 2]`: `acc`, `m`, `l` of each.
        pub states: u64,
        /// Where keys and values are.
        pub pool: PoolArgs,
        /// [`Slot`] `[slots]`.
        pub slots: u64,
        /// u32, one element: how many slots there are. Blocks of threads beyond do nothing.
        pub n_slots: u64,
        /// Positions of the layer's sliding window; 0: none.
        pub window: u32,
        /// Query heads.
        pub n_heads: u32,
        /// Elements of a head, at most [`MAX_HEAD_DIM`].
        pub head_dim: u32,
        /// Floats from a row of `q` to the next.
        pub q_stride: u32,
        /// The factor of the scores.
        pub scale: f32,
        /// Query heads of a block of threads: 1, 4 or, up to 128 elements, 8; set by [`shape`](Self::shape).
        pub heads: u32,
    }
}

/// Tiles of a span, a warp of [`Kernel::Attend`](super::Kernel::Attend) each.
const SPAN_TILES: u32 = (KV_SPAN / KV_TILE) as u32;
/// Bytes of a warp's ring of pieces of keys and values.
const SLOT_RING: u32 = 4 * 2048;
/// Most query heads that go through a span together.
const SLOT_HEADS: u32 = 8;

impl AttendArgs {
    /// A block of threads for each of up to `slots` slots and some query heads of a KV head, on a device of so many
    /// multiprocessors; sets `heads`. `n_heads` <= 65535.
    pub fn shape(&mut self, slots: u32, multiprocessors: u32) -> Shape {
        let group = self.n_heads / self.pool.n_kv_heads;
        // Keys and values are read once for all heads of a block. But where most multiprocessors have no block, reading
        // them several times over costs less than going through several heads.
        self.heads = if u64::from(slots) * u64::from(self.n_heads) <= u64::from(multiprocessors / 2)
        {
            1
        } else if group > 4 && self.head_dim <= 128 {
            SLOT_HEADS
        } else {
            4
        };
        // Of each tile and head: the two weights of its merge, and l; of each head m.
        let merges = (3 * SPAN_TILES + 1) * SLOT_HEADS;
        let scales = SPAN_TILES * KV_TILE as u32;
        let (queries, weights) = (self.heads * self.head_dim, self.heads * KV_SPAN as u32);
        let shared = SPAN_TILES * SLOT_RING + 4 * (merges + scales + queries + weights);
        assert!(shared <= MAX_SHARED, "more than MAX_HEAD_DIM");
        Shape {
            grid: [slots, self.pool.n_kv_heads * group.div_ceil(self.heads), 1],
            threads: 32 * SPAN_TILES,
            shared,
        }
    }
}

args! {
    /// The slots of each row, merged in order; the attention's result.
    pub struct AttendMergeArgs {
        /// f32 `[slots, n_heads, head_dim + 2]`.
        pub states: u64,
        /// u32 `[rows + 1]`: the slots of row `i` are `row_slots[i] .. row_slots[i + 1]`, in the order of their spans.
        pub row_slots: u64,
        /// f32 `[rows, out_stride]`: heads one after the other.
        pub out: u64,
        /// Query heads.
        pub n_heads: u32,
        /// Elements of a head.
        pub head_dim: u32,
        /// Floats from a row of `out` to the next.
        pub out_stride: u32,
        /// Not used.
        pub pad: u32,
    }
}

impl AttendMergeArgs {
    /// A block of threads for each head of each row. `rows` <= 65535.
    pub const fn shape(&self, rows: u32) -> Shape {
        Shape {
            grid: [self.n_heads, rows, 1],
            threads: 64,
            shared: 0,
        }
    }
}

args! {
    /// The attention of many rows, from their first position to their own; no slots, no states.
    pub struct AttendRowsArgs {
        /// f32 `[rows, q_stride]`.
        pub q: u64,
        /// f32 `[rows, out_stride]`.
        pub out: u64,
        /// Where keys and values are.
        pub pool: PoolArgs,
        /// [`RowBlock`] `[row blocks]`.
        pub row_blocks: u64,
        /// Positions of the layer's sliding window; 0: none.
        pub window: u32,
        /// Query heads.
        pub n_heads: u32,
        /// Elements of a head, at most [`MAX_HEAD_DIM`].
        pub head_dim: u32,
        /// Floats from a row of `q` to the next.
        pub q_stride: u32,
        /// Floats from a row of `out` to the next.
        pub out_stride: u32,
        /// The factor of the scores.
        pub scale: f32,
    }
}

/// Queries that a half or a whole warp has together in [`Kernel::AttendRows`](super::Kernel::AttendRows).
const SET: u32 = 8;

impl AttendRowsArgs {
    /// Most rows of a [`RowBlock`], for a number of query heads of each KV head; 0: the kernel cannot be used, and
    /// any number of rows goes through [`Kernel::Attend`](super::Kernel::Attend).
    pub const fn block_rows(group: u32) -> u32 {
        MAX_QUERIES / group
    }

    /// A block of threads for each row block and KV head. `n_kv_heads` <= 65535.
    pub const fn shape(&self, row_blocks: u32) -> Shape {
        // Threads of a set, and bytes of a piece of keys or values, of which a ring has four.
        let (lanes, piece) = if self.head_dim <= 128 {
            (16, 4096)
        } else {
            (32, 2048)
        };
        let (warps, of_warp) = (MAX_QUERIES / SET * lanes / 32, SET * 32 / lanes);
        let tile = KV_TILE as u32;
        // A row of weights is longer, so that those who write it meet different banks.
        let weights = warps * tile * (of_warp + 4);
        // Two numbers of a merge and two positions of each query, and the scales of three tiles.
        let floats = MAX_QUERIES * self.head_dim + weights + 4 * MAX_QUERIES + 3 * 2 * tile;
        let shared = 4 * piece + 4 * floats;
        assert!(shared <= MAX_SHARED, "more than MAX_HEAD_DIM");
        Shape {
            grid: [row_blocks, self.pool.n_kv_heads, 1],
            threads: 32 * warps,
            shared,
        }
    }
}
