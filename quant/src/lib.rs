//! What the bytes of a chaski file mean.
//!
//! * [`QuantType`]: the eight element types, their block and tile sizes.
//! * [`TensorLayout`]: where the weights of a `[rows, cols]` matrix lie in its 16-row tiles.
//! * [`tile`]: codes and scales in and out of the bytes of a tile.
//! * [`quantize`]: `f32` rows to tiles, by a least-squares search.
//! * [`scalar`]: the oracle. It *defines* every result that a kernel or a backend may produce;
//!   `docs/numerics.md` is the same in prose.
//! * [`container`]: the file itself, its writer, its reader and its checks.
//!
//! A row is one output feature, `cols` (often called k) contiguous weights. A block is 32 weights of
//! one row. A tile is 16 rows by all of k; see [`TensorLayout`] for the bytes.

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "chaski needs a 64-bit target: a model file is mapped as a whole, and its lengths are 64 bits"
);

pub mod acts;
pub mod container;
pub mod layout;
pub mod quantize;
pub mod scalar;
pub mod tile;
pub mod types;

pub use acts::{ActRows, Acts};
pub use layout::{LayoutError, TensorLayout, TileRun};
pub use types::{QuantType, UnknownQuantType};

/// Weights that share one block scale, and activations that share one scale.
pub const BLOCK: usize = 32;
/// Rows of a tile: one SIMD lane each.
pub const TILE_ROWS: usize = 16;
/// Tiles and data ranges start at multiples of this many bytes.
pub const TILE_ALIGN: usize = 64;
