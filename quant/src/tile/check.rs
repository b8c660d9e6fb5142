//! What the bytes of a tile must be, beyond their checksum.

use std::{error::Error, fmt};

use byteorder::{ByteOrder, LittleEndian};

use super::{code, codebook, q4_scale, scales_per_block};
use crate::{BLOCK, QuantType, TILE_ROWS, TensorLayout, scalar::float_weight};

/// Why bytes are no tile. Rows and columns count from the tile's first.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TileError {
    /// There are too few or too many bytes.
    Length {
        /// The bytes of a tile.
        expected: usize,
        /// The bytes there are.
        len: usize,
    },
    /// A row scale is infinite or not a number.
    RowScale {
        /// Its row.
        row: usize,
        /// The scale.
        value: f32,
    },
    /// A block scale is -128, or in Q3, Q4 and Q4H -64: kernels rely on symmetric ranges.
    BlockScale {
        /// Its row.
        row: usize,
        /// The first column that it scales.
        col: usize,
        /// The scale.
        value: i8,
    },
    /// A code of Q8 is -128.
    Code {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// A weight of a float type is infinite or not a number.
    Weight {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// Padding is not what it must be: zero, or 0x80 for the scale of a half block of Q4H that lies
    /// past the last column.
    Padding {
        /// The byte, from the tile's first; for a code the first byte of its block.
        offset: usize,
    },
}

impl fmt::Display for TileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, len } => {
                write!(f, "a tile of {expected} bytes has {len}")
            }
            Self::RowScale { row, value } => {
                write!(f, "scale of row {row} is {value}, expected a finite number")
            }
            Self::BlockScale { row, col, value } => {
                write!(
                    f,
                    "block scale of row {row} at column {col} is {value}, expected at least {}",
                    i16::from(*value) + 1
                )
            }
            Self::Code { row, col } => {
                write!(
                    f,
                    "code of row {row} at column {col} is -128, expected at least -127"
                )
            }
            Self::Weight { row, col, value } => {
                write!(
                    f,
                    "weight of row {row} at column {col} is {value}, expected a finite number"
                )
            }
            Self::Padding { offset } => {
                write!(f, "padding at byte {offset} of the tile is not zero")
            }
        }
    }
}

impl Error for TileError {}

/// Checks that the bytes of tile `tile_index` are such as a quantiser may write.
///
/// * Row scales and float weights are finite.
/// * No block scale is -128, or -64 in Q3, Q4 and Q4H; no code of Q8 is -128.
/// * Zero are: all that belongs to missing rows, code bits of columns past the last one, and the bytes
///   after the last block. The scale of a half block of Q4H past the last column is 0 (byte 0x80).
///
/// # Errors
///
/// The first thing that is wrong.
///
/// # Panics
///
/// If the matrix has no such tile.
pub fn check_tile(layout: &TensorLayout, tile_index: usize, bytes: &[u8]) -> Result<(), TileError> {
    let (qtype, n_rows) = (layout.qtype(), layout.tile_rows(tile_index).len());
    if bytes.len() != layout.tile_bytes() {
        return Err(TileError::Length {
            expected: layout.tile_bytes(),
            len: bytes.len(),
        });
    }
    let header = qtype.tile_header_bytes();
    for row in 0..header / 4 {
        let value = LittleEndian::read_f32(&bytes[4 * row..]);
        if row < n_rows && !value.is_finite() {
            return Err(TileError::RowScale { row, value });
        }
    }
    // No header: nothing to look at.
    let row_scales = &bytes[..header];
    zero(row_scales.get(4 * n_rows..).unwrap_or(&[]), 4 * n_rows)?;

    let block_bytes = qtype.tile_block_bytes();
    for b in 0..layout.n_blocks() {
        let offset = header + b * block_bytes;
        let check = Block {
            qtype,
            bytes: &bytes[offset..offset + block_bytes],
            offset,
            first_col: b * BLOCK,
            n_rows,
            n_cols: (layout.cols() - b * BLOCK).min(BLOCK),
        };
        if qtype.is_quantized() {
            check.quantized()?;
        } else {
            check.float()?;
        }
    }
    let end = header + layout.n_blocks() * block_bytes;
    zero(&bytes[end..], end)
}

fn zero(bytes: &[u8], offset: usize) -> Result<(), TileError> {
    match bytes.iter().position(|b| *b != 0) {
        Some(i) => Err(TileError::Padding { offset: offset + i }),
        None => Ok(()),
    }
}

/// One tile block.
struct Block<'a> {
    qtype: QuantType,
    bytes: &'a [u8],
    /// Of its first byte in the tile.
    offset: usize,
    first_col: usize,
    n_rows: usize,
    /// Columns that are not padding.
    n_cols: usize,
}

impl Block<'_> {
    fn quantized(&self) -> Result<(), TileError> {
        let n_scales = scales_per_block(self.qtype);
        let (scales, quants) = self.bytes.split_at(n_scales * TILE_ROWS);
        for (half, scales) in scales.chunks_exact(TILE_ROWS).enumerate() {
            let at = self.offset + half * TILE_ROWS;
            let (scales, padding) = scales.split_at(self.n_rows);
            self.scales(scales, half * 16, at)?;
            zero(padding, at + self.n_rows)?;
        }
        // Quants and upper bits are vectors of 64 bytes, four for each row.
        for (j, vector) in quants.chunks_exact(64).enumerate() {
            let from = 4 * self.n_rows;
            zero(
                &vector[from..],
                self.offset + n_scales * TILE_ROWS + 64 * j + from,
            )?;
        }
        for k in self.n_cols..BLOCK {
            if (0..self.n_rows).any(|row| code(self.qtype, self.bytes, row, k) != 0) {
                return Err(TileError::Padding {
                    offset: self.offset,
                });
            }
        }
        if self.qtype == QuantType::Q8
            && let Some(i) = quants.iter().position(|b| *b == 0x80)
        {
            return Err(TileError::Code {
                row: i % 64 / 4,
                col: self.first_col + i / 64 * 4 + i % 4,
            });
        }
        Ok(())
    }

    /// `first`: the first column of the block that the scales belong to.
    fn scales(&self, scales: &[u8], first: usize, offset: usize) -> Result<(), TileError> {
        let codebook = codebook(self.qtype).is_some();
        for (row, byte) in scales.iter().enumerate() {
            let (value, lowest) = if codebook {
                (q4_scale(*byte).0, -64)
            } else {
                (*byte as i8, -128)
            };
            if first >= self.n_cols && *byte != 0x80 {
                return Err(TileError::Padding {
                    offset: offset + row,
                });
            }
            if value == lowest {
                return Err(TileError::BlockScale {
                    row,
                    col: self.first_col + first,
                    value,
                });
            }
        }
        Ok(())
    }

    fn float(&self) -> Result<(), TileError> {
        let size = self.bytes.len() / (BLOCK * TILE_ROWS);
        for (k, bytes) in self.bytes.chunks_exact(size * TILE_ROWS).enumerate() {
            let n_rows = if k < self.n_cols { self.n_rows } else { 0 };
            for row in 0..n_rows {
                let value = float_weight(self.qtype, self.bytes, row, k);
                if !value.is_finite() {
                    return Err(TileError::Weight {
                        row,
                        col: self.first_col + k,
                        value,
                    });
                }
            }
            let from = size * n_rows;
            zero(&bytes[from..], self.offset + k * size * TILE_ROWS + from)?;
        }
        Ok(())
    }
}
