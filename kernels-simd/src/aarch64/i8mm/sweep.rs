//! Quantised tiles times many rows of activations: 2 x 2 outputs in a register.
//!
//! ```text
//! panels (see `neon::blocks`); for each 4 rows, each 8 matrix rows, each block, each half of its
//! weights: 2 x 4 sums of 2 x 2 outputs, 16 matrix products
//! ```
//!
//! A register of weights is a *pair* of matrix rows by 8 weights, zipped from two groups of a quad;
//! a register of activations two rows by 8 codes, zipped from those of each row. The sums stay in
//! this shape; block scales and activation scales come in it.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, vcombine_f32, vdup_n_f32, vdupq_n_f32, vdupq_n_s32, vmulq_f32,
    vreinterpretq_f32_f64, vreinterpretq_f64_f32, vreinterpretq_s8_s32, vreinterpretq_s8_s64,
    vreinterpretq_s32_s8, vreinterpretq_s64_s8, vzip1q_f64, vzip1q_s32, vzip1q_s64, vzip2q_f64,
    vzip2q_s32, vzip2q_s64,
};

use chaski_quant::{ActRows, TILE_ROWS, TileRun};

use super::ops::matmul_2x2;
use crate::aarch64::neon::{
    blocks::{Groups, PANEL_BLOCKS, Scales, act_rows, add_block, sweep_panels, values, zero_sum},
    load::{load_f32x4, load_i8x16, store_f32x4, store_i8x16},
};

/// Fewer rows of activations than this are the dot product's: unpacking and zipping would not pay.
pub(super) const MIN_ROWS: usize = 8;

/// Pairs of rows of a tile.
const PAIRS: usize = TILE_ROWS / 2;

/// A tile block in a panel.
struct PanelBlock<const H: usize> {
    /// `[pair][8 weights][16]`.
    values: [i8; 512],
    /// `[pair][4]`: the scales of the pair, twice.
    scales: [[f32; 4 * PAIRS]; H],
}

/// The halves of 8 bytes of two registers: both low ones, both high ones.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn zip_halves(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
    [
        vreinterpretq_s8_s64(vzip1q_s64(a, b)),
        vreinterpretq_s8_s64(vzip2q_s64(a, b)),
    ]
}

/// The halves of two floats of two registers: both low ones, both high ones. Rows to 2 x 2, and back.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn zip_floats(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
    let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
    [
        vreinterpretq_f32_f64(vzip1q_f64(a, b)),
        vreinterpretq_f32_f64(vzip2q_f64(a, b)),
    ]
}

/// Unpacks quad `quad` of a block into a panel.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn fill_quad<const H: usize>(
    panel: &mut PanelBlock<H>,
    codes: &Groups,
    scales: &Scales<H>,
    quad: usize,
) {
    let values = values(codes, scales, quad);
    for (o, groups) in values.as_chunks::<2>().0.iter().enumerate() {
        let (a, b) = (
            vreinterpretq_s32_s8(groups[0]),
            vreinterpretq_s32_s8(groups[1]),
        );
        let low = vreinterpretq_s8_s32(vzip1q_s32(a, b));
        let high = vreinterpretq_s8_s32(vzip2q_s32(a, b));
        store_i8x16(&mut panel.values, 128 * quad + 16 * o, low);
        store_i8x16(&mut panel.values, 128 * quad + 64 + 16 * o, high);
    }
    for h in 0..H {
        let scale = scales.scale[h][quad];
        let [low, high] = zip_floats(scale, scale);
        store_f32x4(&mut panel.scales[h], 8 * quad, low);
        store_f32x4(&mut panel.scales[h], 8 * quad + 4, high);
    }
}

/// Every tile of `w` times every row of `x`.
///
/// * `scales(block)`: what all quads of a tile block of `B` bytes need.
/// * `codes(block, quad)`: the quad's codes.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn sweep<const B: usize, const H: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    scales: impl Fn(&[u8; B]) -> Scales<H> + Copy,
    codes: impl Fn(&[u8; B], usize) -> Groups + Copy,
) {
    let mut panel = [const {
        PanelBlock {
            values: [0; 512],
            scales: [[0.0; 4 * PAIRS]; H],
        }
    }; PANEL_BLOCKS];
    sweep_panels(
        w,
        x,
        out,
        &mut panel,
        |block: &[u8; B], panel: &mut PanelBlock<H>| {
            let scales = scales(block);
            for quad in 0..4 {
                fill_quad(panel, &codes(block, quad), &scales, quad);
            }
        },
        |panel, x, t, first, out| match out.len() / TILE_ROWS {
            1 => panel_rows::<H, 1, 1>(panel, x, t, first, out),
            2 => panel_rows::<H, 2, 1>(panel, x, t, first, out),
            3 => panel_rows::<H, 3, 2>(panel, x, t, first, out),
            _ => panel_rows::<H, 4, 2>(panel, x, t, first, out),
        },
    );
}

/// A panel times rows `t..t + N`, `P` pairs of rows (a last single row is its own partner).
/// `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn panel_rows<const H: usize, const N: usize, const P: usize>(
    panel: &[PanelBlock<H>],
    x: &ActRows<'_>,
    t: usize,
    first: usize,
    out: &mut [f32],
) {
    let rows = act_rows::<4>(x, t, N, first, panel.len());
    let (rows, _) = rows.as_chunks::<2>();
    for half_tile in 0..2 {
        let first_pair = 4 * half_tile;
        let at = |i: usize, quad: usize| i * TILE_ROWS + 8 * half_tile + 4 * quad;
        let mut acc = [[vdupq_n_f32(0.0); 4]; P];
        for p in 0..P {
            for quad in 0..2 {
                let upper = load_f32x4(out, at(2 * p, quad));
                let lower = load_f32x4(out, at((2 * p + 1).min(N - 1), quad));
                [acc[p][2 * quad], acc[p][2 * quad + 1]] = zip_floats(upper, lower);
            }
        }
        for (b, block) in panel.iter().enumerate() {
            let mut isum = [[zero_sum(); 4]; P];
            for half in 0..2 {
                let mut x = [[vreinterpretq_s8_s32(vdupq_n_s32(0)); 2]; P];
                for p in 0..P {
                    let upper = load_i8x16(&rows[p][0].codes[b], 16 * half);
                    let lower = load_i8x16(&rows[p][1].codes[b], 16 * half);
                    x[p] = zip_halves(upper, lower);
                }
                for pair in 0..4 {
                    for o in 0..2 {
                        let from = 64 * (first_pair + pair) + 16 * (2 * half + o);
                        let w = load_i8x16(&block.values, from);
                        for p in 0..P {
                            isum[p][pair] = matmul_2x2(isum[p][pair], x[p][o], w);
                        }
                    }
                }
                if half == 1 || H == 2 {
                    let scales = &block.scales[half * H / 2];
                    for p in 0..P {
                        let d = vcombine_f32(
                            vdup_n_f32(rows[p][0].scales[b]),
                            vdup_n_f32(rows[p][1].scales[b]),
                        );
                        for pair in 0..4 {
                            let scale = load_f32x4(scales, 4 * (first_pair + pair));
                            let scale = vmulq_f32(scale, d);
                            acc[p][pair] = add_block(acc[p][pair], isum[p][pair], scale);
                        }
                    }
                    isum = [[zero_sum(); 4]; P];
                }
            }
        }
        for p in 0..P {
            for quad in 0..2 {
                let both = zip_floats(acc[p][2 * quad], acc[p][2 * quad + 1]);
                for i in 2 * p..N.min(2 * p + 2) {
                    store_f32x4(out, at(i, quad), both[i - 2 * p]);
                }
            }
        }
    }
}
