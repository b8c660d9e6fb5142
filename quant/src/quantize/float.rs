//! Tiles of the float types.

use byteorder::{ByteOrder, LittleEndian};
use half::{bf16, f16};

use super::{QuantizeError, TileStats};
use crate::{QuantType, TILE_ROWS};

/// Writes the rows, rounded to nearest even, into a tile whose bytes are zero before.
pub(super) fn write_tile(
    qtype: QuantType,
    rows: &[&[f32]],
    out: &mut [u8],
) -> Result<TileStats, QuantizeError> {
    let mut stats = TileStats::default();
    for (lane, row) in rows.iter().enumerate() {
        for (k, x) in row.iter().enumerate() {
            if !x.is_finite() {
                return Err(QuantizeError::NotFinite {
                    row: lane,
                    col: k,
                    value: *x,
                });
            }
            let i = k * TILE_ROWS + lane;
            let stored = match qtype {
                QuantType::F16 => {
                    let y = f16::from_f32(*x);
                    LittleEndian::write_u16(&mut out[2 * i..], y.to_bits());
                    y.to_f32()
                }
                QuantType::BF16 => {
                    let y = bf16::from_f32(*x);
                    LittleEndian::write_u16(&mut out[2 * i..], y.to_bits());
                    y.to_f32()
                }
                _ => {
                    LittleEndian::write_f32(&mut out[4 * i..], *x);
                    *x
                }
            };
            if !stored.is_finite() {
                return Err(QuantizeError::OutOfRange {
                    row: lane,
                    col: k,
                    value: *x,
                    qtype,
                });
            }
            stats.add(*x, stored);
        }
    }
    Ok(stats)
}
