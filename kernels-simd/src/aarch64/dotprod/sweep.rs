//! Quantised tiles times rows of activations: the loops that all quantised types share.
//!
//! ```text
//! up to 8 rows   for each block, each quad: unpack into registers, one step for each row
//! more           panels (see `neon::blocks`); for each 4 rows, each 8 matrix rows, each block, each
//!                half of its weights: 8 registers of weights, 32 dot products
//! ```

use std::arch::aarch64::{vdupq_n_f32, vmlal_n_s16, vmulq_n_f32};

use chaski_quant::{ActRows, TILE_ROWS, TileRun};

use super::ops::dot16;
use crate::aarch64::neon::{
    blocks::{
        Groups, PANEL_BLOCKS, Scales, act_blocks, act_rows, add_block, load_groups, sweep_panels,
        times_row_scales, values, zero_sum,
    },
    load::{load_f32x4, load_i8x16, store_f32x4, store_i8x16},
};

/// Rows that share an unpacked quad in registers.
const MAX_ROWS: usize = 8;

/// A tile block in a panel.
struct PanelBlock<const H: usize> {
    /// `[quad][group][16]`.
    values: [i8; 512],
    scales: [[f32; TILE_ROWS]; H],
}

/// Every tile of `w` times every row of `x`.
///
/// * `scales(block)`: what all quads of a tile block of `B` bytes need.
/// * `codes(block, quad)`: the quad's codes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sweep<const B: usize, const H: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    scales: impl Fn(&[u8; B]) -> Scales<H> + Copy,
    codes: impl Fn(&[u8; B], usize) -> Groups + Copy,
) {
    if x.n_rows() > MAX_ROWS {
        return many_rows(w, x, out, scales, codes);
    }
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let (row_scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
        let blocks = &blocks.as_chunks().0[..w.n_blocks()];
        match x.n_rows() {
            1 => rows::<B, H, 1>(blocks, x, out, scales, codes),
            2 => rows::<B, H, 2>(blocks, x, out, scales, codes),
            3 => rows::<B, H, 3>(blocks, x, out, scales, codes),
            4 => rows::<B, H, 4>(blocks, x, out, scales, codes),
            5 => rows::<B, H, 5>(blocks, x, out, scales, codes),
            6 => rows::<B, H, 6>(blocks, x, out, scales, codes),
            7 => rows::<B, H, 7>(blocks, x, out, scales, codes),
            _ => rows::<B, H, 8>(blocks, x, out, scales, codes),
        }
        times_row_scales(out, row_scales);
    }
}

/// One tile times `N` rows. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn rows<const B: usize, const H: usize, const N: usize>(
    blocks: &[[u8; B]],
    x: &ActRows<'_>,
    out: &mut [f32],
    scales: impl Fn(&[u8; B]) -> Scales<H> + Copy,
    codes: impl Fn(&[u8; B], usize) -> Groups + Copy,
) {
    let rows = act_rows::<N>(x, 0, N, 0, blocks.len());
    let mut acc = [[vdupq_n_f32(0.0); 4]; N];
    for (b, block) in blocks.iter().enumerate() {
        let (x, scales) = (act_blocks(&rows, b), scales(block));
        for quad in 0..4 {
            let codes = codes(block, quad);
            let (halves, _) = codes.as_chunks::<4>();
            // Short loops over the rows, which the compiler unrolls.
            let mut isum = [zero_sum(); N];
            for half in 0..2 {
                let h = half * H / 2;
                if half == 0 || H == 2 {
                    for i in 0..N {
                        let (offset, sum) = (scales.offset[h][quad], x[i].sum::<H>(h));
                        isum[i] = vmlal_n_s16(zero_sum(), offset, sum);
                    }
                }
                for i in 0..N {
                    isum[i] = dot16(isum[i], &halves[half], load_i8x16(x[i].codes, 16 * half));
                }
                if half == 1 || H == 2 {
                    for i in 0..N {
                        let scale = vmulq_n_f32(scales.scale[h][quad], x[i].scale);
                        acc[i][quad] = add_block(acc[i][quad], isum[i], scale);
                    }
                }
            }
        }
    }
    for (i, acc) in acc.as_flattened().iter().enumerate() {
        store_f32x4(out, 4 * i, *acc);
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn many_rows<const B: usize, const H: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    scales: impl Fn(&[u8; B]) -> Scales<H> + Copy,
    codes: impl Fn(&[u8; B], usize) -> Groups + Copy,
) {
    let mut panel = [const {
        PanelBlock {
            values: [0; 512],
            scales: [[0.0; TILE_ROWS]; H],
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
                let values = values(&codes(block, quad), &scales, quad);
                for (g, values) in values.into_iter().enumerate() {
                    store_i8x16(&mut panel.values, 128 * quad + 16 * g, values);
                }
                for h in 0..H {
                    store_f32x4(&mut panel.scales[h], 4 * quad, scales.scale[h][quad]);
                }
            }
        },
        |panel, x, t, first, out| match out.len() / TILE_ROWS {
            1 => panel_rows::<H, 1>(panel, x, t, first, out),
            2 => panel_rows::<H, 2>(panel, x, t, first, out),
            3 => panel_rows::<H, 3>(panel, x, t, first, out),
            _ => panel_rows::<H, 4>(panel, x, t, first, out),
        },
    );
}

/// A panel times rows `t..t + N`. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn panel_rows<const H: usize, const N: usize>(
    panel: &[PanelBlock<H>],
    x: &ActRows<'_>,
    t: usize,
    first: usize,
    out: &mut [f32],
) {
    let rows = act_rows::<N>(x, t, N, first, panel.len());
    for half_tile in 0..2 {
        let quad = 2 * half_tile;
        let mut acc = [[vdupq_n_f32(0.0); 2]; N];
        for i in 0..N {
            for q in 0..2 {
                acc[i][q] = load_f32x4(out, i * TILE_ROWS + 4 * (quad + q));
            }
        }
        for (b, block) in panel.iter().enumerate() {
            let x = act_blocks(&rows, b);
            let mut isum = [[zero_sum(); 2]; N];
            for half in 0..2 {
                let w = [
                    load_groups(&block.values, 128 * quad + 64 * half),
                    load_groups(&block.values, 128 * (quad + 1) + 64 * half),
                ];
                for i in 0..N {
                    let codes = load_i8x16(x[i].codes, 16 * half);
                    for q in 0..2 {
                        isum[i][q] = dot16(isum[i][q], &w[q], codes);
                    }
                }
                if half == 1 || H == 2 {
                    let scales = &block.scales[half * H / 2];
                    for i in 0..N {
                        for q in 0..2 {
                            let scale = load_f32x4(scales, 4 * (quad + q));
                            let scale = vmulq_n_f32(scale, x[i].scale);
                            acc[i][q] = add_block(acc[i][q], isum[i][q], scale);
                        }
                    }
                    isum = [[zero_sum(); 2]; N];
                }
            }
        }
        for i in 0..N {
            for q in 0..2 {
                store_f32x4(out, i * TILE_ROWS + 4 * (quad + q), acc[i][q]);
            }
        }
    }
}
