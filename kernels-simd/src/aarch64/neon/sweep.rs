//! Quantised tiles times rows of activations: the loops that all quantised types share.
//!
//! ```text
//! one row       for each block, each quad: unpack into registers, one step
//! several rows  panels (see `blocks.rs`); for each two rows, block, quad: one step of each
//! ```
//!
//! A *step* multiplies 8 bits by 8 bits into 16, lane = row and weight, adds up to `P` products of
//! each lane in 16 bits, and then the lanes of a row in 32.

use std::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s32, vdupq_laneq_s32, vdupq_n_f32, vdupq_n_s32, vmlal_n_s16,
    vmulq_n_f32, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32, vreinterpretq_s32_s8,
};

use chaski_quant::{ActRows, TILE_ROWS, TileRun};

use super::{
    blocks::{
        Groups, PANEL_BLOCKS, Scales, act_blocks, act_rows, add_block, sweep_panels,
        times_row_scales, values, zero_sum,
    },
    load::{load_f32x4, load_i8x16, store_f32x4, store_i8x16},
    ops::{add_two, mul_two},
};

/// A tile block in a panel.
struct PanelBlock<const H: usize> {
    /// `[quad][group][16]`.
    values: [i8; 512],
    scales: [[f32; TILE_ROWS]; H],
}

/// The codes of a block, the four of each group in every lane of 32 bits.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast_codes(codes: &[i8; 32]) -> Groups {
    let mut groups = [vreinterpretq_s8_s32(vdupq_n_s32(0)); 8];
    for half in 0..2 {
        let x = vreinterpretq_s32_s8(load_i8x16(codes, 16 * half));
        groups[4 * half] = vreinterpretq_s8_s32(vdupq_laneq_s32::<0>(x));
        groups[4 * half + 1] = vreinterpretq_s8_s32(vdupq_laneq_s32::<1>(x));
        groups[4 * half + 2] = vreinterpretq_s8_s32(vdupq_laneq_s32::<2>(x));
        groups[4 * half + 3] = vreinterpretq_s8_s32(vdupq_laneq_s32::<3>(x));
    }
    groups
}

/// Sums of the products of four rows' weights, `P` products (an even number) in 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn dot<const P: usize>(w: &[int8x16_t], x: &[int8x16_t]) -> int32x4_t {
    let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
    for (w, x) in w.chunks_exact(P).zip(x.chunks_exact(P)) {
        let mut products = mul_two([w[0], w[1]], [x[0], x[1]]);
        for g in (2..P).step_by(2) {
            products = add_two(products, [w[g], w[g + 1]], [x[g], x[g + 1]]);
        }
        low = vpadalq_s16(low, products[0]);
        high = vpadalq_s16(high, products[1]);
    }
    vpaddq_s32(low, high)
}

/// Every tile of `w` times every row of `x`.
///
/// * `P`, `PANEL_P`: products of codes with activations, and of values with activations, that fit
///   16 bits.
/// * `scales(block)`: what all quads of a tile block of `B` bytes need.
/// * `codes(block, quad)`: the quad's codes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sweep<const B: usize, const H: usize, const P: usize, const PANEL_P: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    scales: impl Fn(&[u8; B]) -> Scales<H> + Copy,
    codes: impl Fn(&[u8; B], usize) -> Groups + Copy,
) {
    if x.n_rows() == 1 {
        return one_row::<B, H, P>(w, x, out, scales, codes);
    }
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
        |panel, x, t, first, out| {
            for (i, out) in out.chunks_mut(2 * TILE_ROWS).enumerate() {
                let t = t + 2 * i;
                match out.len() / TILE_ROWS {
                    1 => panel_rows::<H, PANEL_P, 1>(panel, x, t, first, out),
                    _ => panel_rows::<H, PANEL_P, 2>(panel, x, t, first, out),
                }
            }
        },
    );
}

#[inline]
#[target_feature(enable = "neon")]
fn one_row<const B: usize, const H: usize, const P: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    scales: impl Fn(&[u8; B]) -> Scales<H> + Copy,
    codes: impl Fn(&[u8; B], usize) -> Groups + Copy,
) {
    let x = act_rows::<1>(x, 0, 1, 0, w.n_blocks());
    for (i, out) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
        let (row_scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
        let blocks = &blocks.as_chunks().0[..w.n_blocks()];
        let mut acc = [vdupq_n_f32(0.0); 4];
        for (b, block) in blocks.iter().enumerate() {
            let ([x], scales) = (act_blocks(&x, b), scales(block));
            let x_groups = broadcast_codes(x.codes);
            for quad in 0..4 {
                let codes = codes(block, quad);
                for h in 0..H {
                    let half = h * (8 / H)..(h + 1) * (8 / H);
                    let isum = dot::<P>(&codes[half.clone()], &x_groups[half]);
                    let offset = vmlal_n_s16(zero_sum(), scales.offset[h][quad], x.sum::<H>(h));
                    let scale = vmulq_n_f32(scales.scale[h][quad], x.scale);
                    acc[quad] = add_block(acc[quad], vaddq_s32(isum, offset), scale);
                }
            }
        }
        for (quad, acc) in acc.into_iter().enumerate() {
            store_f32x4(out, 4 * quad, acc);
        }
        times_row_scales(out, row_scales);
    }
}

/// A panel times rows `t..t + N`; the activations stay in registers. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "neon")]
fn panel_rows<const H: usize, const P: usize, const N: usize>(
    panel: &[PanelBlock<H>],
    x: &ActRows<'_>,
    t: usize,
    first: usize,
    out: &mut [f32],
) {
    let rows = act_rows::<N>(x, t, N, first, panel.len());
    let mut acc = [[vdupq_n_f32(0.0); 4]; N];
    for (i, acc) in acc.as_flattened_mut().iter_mut().enumerate() {
        *acc = load_f32x4(out, 4 * i);
    }
    for (b, block) in panel.iter().enumerate() {
        let acts = act_blocks(&rows, b);
        let mut x = [broadcast_codes(acts[0].codes); N];
        for i in 1..N {
            x[i] = broadcast_codes(acts[i].codes);
        }
        for quad in 0..4 {
            for h in 0..H {
                let (first, n) = (h * (8 / H), 8 / H);
                let scale = load_f32x4(&block.scales[h], 4 * quad);
                let mut w = [vreinterpretq_s8_s32(vdupq_n_s32(0)); 8];
                for g in first..first + n {
                    w[g] = load_i8x16(&block.values, 128 * quad + 16 * g);
                }
                for i in 0..N {
                    let isum = dot::<P>(&w[first..first + n], &x[i][first..first + n]);
                    let isum = vaddq_s32(isum, zero_sum());
                    let scale = vmulq_n_f32(scale, acts[i].scale);
                    acc[i][quad] = add_block(acc[i][quad], isum, scale);
                }
            }
        }
    }
    for (i, acc) in acc.as_flattened().iter().enumerate() {
        store_f32x4(out, 4 * i, *acc);
    }
}
