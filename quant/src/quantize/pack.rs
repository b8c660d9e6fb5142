//! Codes at the final scales, and the bytes of a quantised tile.

use byteorder::{ByteOrder, LittleEndian};

use super::{Lanes, TileStats, grid::Grid, panel::Panel, scales::Scales};
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
    write_tile::<G>(panel, scales, out, |group, codes| {
        let x = panel.x.chunks(G::GROUP).nth(group).unwrap_or_default();
        let (v, shift) = (&scales.v[group], &scales.shift[group]);
        for (x, codes) in x.iter().zip(codes) {
            let c = nearest::<G>(x, &scales.row, v, shift);
            *codes = c.map(|c| G::code(c as i8));
            stats.add(x, &decoded(&c, &scales.row, v, shift));
        }
    });
    stats.sum(panel.n_rows, panel.x.len(), &panel.units())
}

/// Writes a tile whose values were chosen before.
///
/// * `values`: of the grid without shift, `[k][row]`.
pub(super) fn pack_values<G: Grid>(
    panel: &Panel,
    scales: &Scales,
    values: &[Lanes],
    out: &mut [u8],
) -> TileStats {
    let mut stats = LaneStats::default();
    write_tile::<G>(panel, scales, out, |group, codes| {
        let start = group * G::GROUP;
        let (v, shift) = (&scales.v[group], &scales.shift[group]);
        let group = panel.x[start..].iter().zip(&values[start..]);
        for ((x, c), codes) in group.zip(codes) {
            *codes = c.map(|c| G::code(c as i8));
            stats.add(x, &decoded(c, &scales.row, v, shift));
        }
    });
    stats.sum(panel.n_rows, panel.x.len(), &panel.units())
}

/// Writes scales, and the codes that `codes_of(group, codes)` gives.
#[inline(always)]
fn write_tile<G: Grid>(
    panel: &Panel,
    scales: &Scales,
    out: &mut [u8],
    mut codes_of: impl FnMut(usize, &mut [[u8; TILE_ROWS]]),
) {
    let units = panel.units();
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
            codes_of(b * per_block + h, &mut codes[h * G::GROUP..][..x.len()]);
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
}

/// The values of the grid, without shift, that are nearest to `x` at given scales.
#[inline(always)]
pub(super) fn nearest<G: Grid>(x: &Lanes, row: &Lanes, v: &Lanes, shift: &Lanes) -> Lanes {
    std::array::from_fn(|l| {
        let scale = v[l] * row[l];
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        if G::SHIFTS {
            G::nearest(x[l] * inverse - shift[l])
        } else {
            G::nearest(x[l] * inverse)
        }
    })
}

/// The weights that values stand for, as `scalar::dequantize_row` has them.
#[inline(always)]
pub(super) fn decoded(c: &Lanes, row: &Lanes, v: &Lanes, shift: &Lanes) -> Lanes {
    std::array::from_fn(|l| ((c[l] + shift[l]) * v[l]) * row[l])
}

/// Statistics of each row, in the panel's magnitude.
#[derive(Default)]
struct LaneStats {
    sum_sq: [f64; TILE_ROWS],
    err_sq: [f64; TILE_ROWS],
    max: [f64; TILE_ROWS],
}

impl LaneStats {
    #[inline(always)]
    fn add(&mut self, x: &Lanes, stored: &Lanes) {
        for l in 0..TILE_ROWS {
            let err = f64::from(x[l]) - f64::from(stored[l]);
            self.sum_sq[l] += f64::from(x[l]) * f64::from(x[l]);
            self.err_sq[l] += err * err;
            let err = err.abs();
            self.max[l] = if err > self.max[l] { err } else { self.max[l] };
        }
    }

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
    if qtype == QuantType::Q3 {
        for row in 0..TILE_ROWS {
            for i in 0..4 {
                let code = |g: usize| codes[4 * g + i][row];
                let pair = |g: usize| code(g) | code(4 + g) << 3;
                let at = 4 * row + i;
                quants[at] = pair(0) | code(3) << 6;
                quants[64 + at] = pair(1) | code(7) << 6;
                quants[128 + at] = pair(2) | code(3) >> 2 << 6 | code(7) >> 2 << 7;
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
