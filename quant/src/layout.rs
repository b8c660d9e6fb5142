//! Where the weights of a matrix lie.
//!
//! ```text
//! matrix   [rows, cols]: row groups of `row_group` rows, each padded to whole tiles of 16 rows
//! tile     row scales (quantised types only) 16 x f32
//!          cols_padded / 32 tile blocks
//!          zero bytes up to a multiple of 64
//! block    Q3   16 scales, 3 vectors of 64 bytes
//!          Q4   16 scales, 4 vectors
//!          Q4H  32 scales (16 of the low half, 16 of the high half), 4 vectors
//!          Q5   16 scales, 4 vectors, 64 bytes of fifth bits
//!          Q6   16 scales, 4 vectors, 128 bytes of upper bits
//!          Q8   16 scales, 8 vectors
//!          F32, F16, BF16: [k = 0..32][16 rows]
//! ```

use std::{error::Error, fmt, ops::Range};

use crate::{BLOCK, QuantType, TILE_ALIGN, TILE_ROWS};

/// The largest number of rows or columns of a matrix: products of sizes then fit in `u64`.
pub const MAX_DIM: usize = 1 << 28;

/// Shape and type of a matrix in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorLayout {
    qtype: QuantType,
    rows: usize,
    cols: usize,
    row_group: usize,
}

/// Why a matrix cannot be laid out in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// A dimension is zero or larger than [`MAX_DIM`].
    Dim {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// `rows` is not a multiple of `row_group`.
    RowGroup {
        /// Rows asked for.
        rows: usize,
        /// Rows of a group asked for.
        row_group: usize,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dim { rows, cols } => {
                write!(
                    f,
                    "a matrix of {rows} x {cols}: each dimension must be in 1..={MAX_DIM}"
                )
            }
            Self::RowGroup { rows, row_group } => {
                write!(
                    f,
                    "{rows} rows are no whole number of groups of {row_group} rows"
                )
            }
        }
    }
}

impl Error for LayoutError {}

impl TensorLayout {
    /// A matrix of `rows` by `cols` weights whose rows are padded to 16 as a whole.
    pub fn new(qtype: QuantType, rows: usize, cols: usize) -> Result<Self, LayoutError> {
        Self::grouped(qtype, rows, cols, rows)
    }

    /// A matrix whose every `row_group` rows (an attention head, say) are padded to 16 of their own.
    pub fn grouped(
        qtype: QuantType,
        rows: usize,
        cols: usize,
        row_group: usize,
    ) -> Result<Self, LayoutError> {
        if !(1..=MAX_DIM).contains(&rows) || !(1..=MAX_DIM).contains(&cols) {
            return Err(LayoutError::Dim { rows, cols });
        }
        if row_group == 0 || !rows.is_multiple_of(row_group) {
            return Err(LayoutError::RowGroup { rows, row_group });
        }
        Ok(Self {
            qtype,
            rows,
            cols,
            row_group,
        })
    }

    /// The element type.
    pub const fn qtype(&self) -> QuantType {
        self.qtype
    }

    /// Rows (output features), padding not counted.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features, k), padding not counted.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Rows that are padded together.
    pub const fn row_group(&self) -> usize {
        self.row_group
    }

    /// Blocks of 32 along k; the last one may be padded.
    pub const fn n_blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    /// Columns, padded to whole blocks.
    pub const fn cols_padded(&self) -> usize {
        self.n_blocks() * BLOCK
    }

    /// Tiles of one row group.
    pub const fn tiles_per_group(&self) -> usize {
        self.row_group.div_ceil(TILE_ROWS)
    }

    /// Tiles of the matrix.
    pub const fn n_tiles(&self) -> usize {
        self.rows / self.row_group * self.tiles_per_group()
    }

    /// Bytes of one tile, a multiple of 64.
    pub const fn tile_bytes(&self) -> usize {
        (self.qtype.tile_header_bytes() + self.n_blocks() * self.qtype.tile_block_bytes())
            .next_multiple_of(TILE_ALIGN)
    }

    /// Bytes of all tiles.
    pub const fn bytes(&self) -> usize {
        self.n_tiles() * self.tile_bytes()
    }

    /// The matrix rows that tile `tile` holds, in lanes `0..len`; the other lanes are padding.
    ///
    /// # Panics
    ///
    /// If there is no such tile.
    pub fn tile_rows(&self, tile: usize) -> Range<usize> {
        assert!(tile < self.n_tiles(), "tile {tile} of {}", self.n_tiles());
        let (group, within) = (tile / self.tiles_per_group(), tile % self.tiles_per_group());
        let start = within * TILE_ROWS;
        let end = (start + TILE_ROWS).min(self.row_group);
        group * self.row_group + start..group * self.row_group + end
    }

    /// The tile and the lane that hold matrix row `row`.
    pub const fn tile_and_lane(&self, row: usize) -> (usize, usize) {
        let (group, within) = (row / self.row_group, row % self.row_group);
        (
            group * self.tiles_per_group() + within / TILE_ROWS,
            within % TILE_ROWS,
        )
    }
}

/// Equally spaced tiles of one matrix in memory: what a kernel walks over.
///
/// Gate and up tiles alternate in a file, so the distance from one tile to the next (`stride`) may
/// be larger than a tile.
#[derive(Clone, Copy, Debug)]
pub struct TileRun<'a> {
    bytes: &'a [u8],
    n_tiles: usize,
    tile_bytes: usize,
    stride: usize,
    qtype: QuantType,
    n_blocks: usize,
}

impl<'a> TileRun<'a> {
    /// The `n_tiles` tiles of `layout`'s kind that start at `bytes[0]`, `stride` bytes apart.
    ///
    /// # Panics
    ///
    /// If `bytes` is too short for them or `stride` is smaller than a tile.
    pub fn new(layout: &TensorLayout, bytes: &'a [u8], n_tiles: usize, stride: usize) -> Self {
        let tile_bytes = layout.tile_bytes();
        assert!(
            stride >= tile_bytes,
            "tiles overlap: stride {stride}, tile {tile_bytes}"
        );
        assert!(
            n_tiles == 0 || (n_tiles - 1) * stride + tile_bytes <= bytes.len(),
            "{n_tiles} tiles of {tile_bytes} bytes, {stride} apart, leave {} bytes",
            bytes.len()
        );
        Self {
            bytes,
            n_tiles,
            tile_bytes,
            stride,
            qtype: layout.qtype(),
            n_blocks: layout.n_blocks(),
        }
    }

    /// Number of tiles.
    pub const fn n_tiles(&self) -> usize {
        self.n_tiles
    }

    /// The element type.
    pub const fn qtype(&self) -> QuantType {
        self.qtype
    }

    /// Blocks of 32 along k.
    pub const fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// The bytes from the first tile to the last, whatever lies between them included.
    pub fn bytes(&self) -> &'a [u8] {
        match self.n_tiles {
            0 => &[],
            n => &self.bytes[..(n - 1) * self.stride + self.tile_bytes],
        }
    }

    /// The bytes of tile `i`, exactly [`TensorLayout::tile_bytes`] of them.
    pub fn tile(&self, i: usize) -> &'a [u8] {
        assert!(i < self.n_tiles, "tile {i} of {}", self.n_tiles);
        &self.bytes[i * self.stride..i * self.stride + self.tile_bytes]
    }

    /// The tiles `range` of this run.
    ///
    /// # Panics
    ///
    /// If the range leaves the run.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.n_tiles,
            "{range:?} of a tile run"
        );
        let start = (range.start * self.stride).min(self.bytes.len());
        Self {
            bytes: &self.bytes[start..],
            n_tiles: range.len(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once() {
        for (rows, group) in [(1, 1), (16, 16), (17, 17), (60, 20), (576, 64), (50, 5)] {
            let l = TensorLayout::grouped(QuantType::Q4, rows, 64, group).unwrap();
            let mut seen = vec![0; rows];
            for t in 0..l.n_tiles() {
                for (lane, row) in l.tile_rows(t).enumerate() {
                    seen[row] += 1;
                    assert_eq!(l.tile_and_lane(row), (t, lane));
                }
            }
            assert!(
                seen.iter().all(|&n| n == 1),
                "{rows} rows in groups of {group}"
            );
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert!(TensorLayout::new(QuantType::Q8, 0, 32).is_err());
        assert!(TensorLayout::new(QuantType::Q8, 32, MAX_DIM + 1).is_err());
        assert!(TensorLayout::grouped(QuantType::Q8, 30, 32, 20).is_err());
        let l = TensorLayout::new(QuantType::Q4, 17, 576).unwrap();
        assert_eq!((l.n_tiles(), l.tile_bytes(), l.n_blocks()), (2, 4992, 18));
    }
}
