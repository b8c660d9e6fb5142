//! Codes at the final scales, and the bytes of a quantised tile.

use byteorder::{ByteOrder, LittleEndian};

use super::{
    Lanes, TileStats,
    grid::Grid,
    panel::{Panel, power_of_two_f64},
    scales::Scales,
};
use crate::{BLOCK, QuantType, TILE_ROWS, tile};

/// `[k][row]` of a block.
type Codes = [[u8; TILE_ROWS]; BLOCK];

/// Writes a tile, whose bytes are zero before, and tells how far it is off.
///
/// A code is the nearest one at the scale that the file holds. Where the integer scale is 0 it is that
/// of the value 0, without shift.
#[inline(always)]
pub(super) fn pack<G: Grid>(panel: &Panel, scales: &Scales, out: &mut [u8]) -> TileStats {
    let mut stats = LaneStats::default();
    let units = panel.exponents.map(power_of_two_f64);
    for row in 0..panel.n_rows {
        // Exact: the row scale is zero or stays a normal number.
        let scale = (f64::from(scales.row[row]) * units[row]) as f32;
        LittleEndian::write_f32(&mut out[4 * row..], scale);
    }
    let blocks = out[G::QTYPE.tile_header_bytes()..].chunks_exact_mut(G::QTYPE.tile_block_bytes());
    let per_block = BLOCK / G::GROUP;
    for ((b, x), block) in panel.x.chunks(BLOCK).enumerate().zip(blocks) {
        let mut codes: Codes = [[0; TILE_ROWS]; BLOCK];
        for (h, x) in x.chunks(G::GROUP).enumerate() {
            let (v, shift) = (
                &scales.v[b * per_block + h],
                &scales.shift[b * per_block + h],
            );
            let codes = &mut codes[h * G::GROUP..];
            assign::<G>(x, &scales.row, v, shift, codes, &mut stats);
        }
        for half in 0..tile::scales_per_block(G::QTYPE) {
            // A half block past the last column has no scale: 0.
            let none = [0.0; 16];
            let v = scales.v.get(b * per_block + half).unwrap_or(&none);
            let shift = scales.shift.get(b * per_block + half).unwrap_or(&none);
            for row in 0..panel.n_rows {
                block[half * TILE_ROWS + row] = if G::SHIFTS {
                    tile::q4_scale_byte(v[row] as i8, shift[row] != 0.0)
                } else {
                    v[row] as i8 as u8
                };
            }
        }
        for codes in &mut codes {
            codes[panel.n_rows..].fill(0);
        }
        write_codes(
            G::QTYPE,
            &codes,
            &mut block[tile::scales_per_block(G::QTYPE) * TILE_ROWS..],
        );
    }
    stats.sum(panel.n_rows, panel.x.len(), &units)
}

/// The codes of a group.
#[inline(always)]
fn assign<G: Grid>(
    x: &[Lanes],
    row: &Lanes,
    v: &Lanes,
    shift: &Lanes,
    codes: &mut [[u8; TILE_ROWS]],
    stats: &mut LaneStats,
) {
    let inverse: Lanes = std::array::from_fn(|l| {
        let scale = v[l] * row[l];
        if scale != 0.0 { 1.0 / scale } else { 0.0 }
    });
    for (x, codes) in x.iter().zip(codes) {
        for l in 0..16 {
            let c = if G::SHIFTS {
                G::nearest(x[l] * inverse[l] - shift[l])
            } else {
                G::nearest(x[l] * inverse[l])
            };
            codes[l] = G::code(c as i8);
            // As `scalar::dequantize_row` does it.
            let decoded = ((c + shift[l]) * v[l]) * row[l];
            let err = f64::from(x[l]) - f64::from(decoded);
            stats.sum_sq[l] += f64::from(x[l]) * f64::from(x[l]);
            stats.err_sq[l] += err * err;
            let err = err.abs();
            stats.max[l] = if err > stats.max[l] {
                err
            } else {
                stats.max[l]
            };
        }
    }
}

/// Statistics of each row, in the panel's magnitude.
#[derive(Default)]
struct LaneStats {
    sum_sq: [f64; TILE_ROWS],
    err_sq: [f64; TILE_ROWS],
    max: [f64; TILE_ROWS],
}

impl LaneStats {
    /// All rows together; `units`: the panel's powers of two.
    fn sum(&self, n_rows: usize, cols: usize, units: &[f64; TILE_ROWS]) -> TileStats {
        let mut stats = TileStats::default();
        for row in 0..n_rows {
            let square = units[row] * units[row];
            stats.merge(&TileStats {
                n: cols as u64,
                sum_sq: self.sum_sq[row] * square,
                err_sq: self.err_sq[row] * square,
                max_abs_err: (self.max[row] * units[row]) as f32,
            });
        }
        stats
    }
}

/// Writes codes as [`tile::set_code`] does, a byte at a time. `quants`: the block without its scales.
#[inline(always)]
fn write_codes(qtype: QuantType, codes: &Codes, quants: &mut [u8]) {
    if qtype == QuantType::Q8 {
        for (k, codes) in codes.iter().enumerate() {
            for (row, code) in codes.iter().enumerate() {
                quants[k / 4 * 64 + row * 4 + k % 4] = *code;
            }
        }
        return;
    }
    let (nibbles, upper) = quants.split_at_mut(256);
    for j in 0..4 {
        for row in 0..TILE_ROWS {
            for i in 0..4 {
                let (low, high) = (codes[4 * j + i][row], codes[16 + 4 * j + i][row]);
                nibbles[64 * j + 4 * row + i] = low & 15 | high << 4;
            }
        }
    }
    for (k, codes) in codes.iter().enumerate() {
        let (g, i) = (k / 4, k % 4);
        for (row, code) in codes.iter().enumerate() {
            match qtype {
                QuantType::Q5 => upper[row * 4 + i] |= (code >> 4) << g,
                QuantType::Q6 => upper[g / 4 * 64 + row * 4 + i] |= (code >> 4) << (g % 4 * 2),
                _ => {}
            }
        }
    }
}
