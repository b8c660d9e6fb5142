//! Float tiles times rows of activations: `acc = fma(w, x, acc)` over k in order, lane = row.

use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_laneq_f32};

use chaski_quant::{ActRows, BLOCK, TILE_ROWS, TileRun};

use super::load::{load_f32x4, store_f32x4};

/// Rows at a time: four sums each.
const MAX_ROWS: usize = 4;

/// 16 weights of one `k`.
pub(super) type Column = [float32x4_t; 4];

/// Every tile of `w` times every row of `x`.
///
/// * `load(block, k)`: weights `k` of the 16 rows of a tile block of `B` bytes, which is `[32][16]`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn float_sweep<const B: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    load: impl Fn(&[u8; B], usize) -> Column + Copy,
) {
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let blocks = &w.tile(i).as_chunks().0[..w.n_blocks()];
        for (i, out) in out.chunks_mut(MAX_ROWS * TILE_ROWS).enumerate() {
            let t = i * MAX_ROWS;
            match out.len() / TILE_ROWS {
                1 => rows::<B, 1>(blocks, x, t, out, load),
                2 => rows::<B, 2>(blocks, x, t, out, load),
                3 => rows::<B, 3>(blocks, x, t, out, load),
                _ => rows::<B, 4>(blocks, x, t, out, load),
            }
        }
    }
}

/// `acc + w * x[LANE]`.
#[inline]
#[target_feature(enable = "neon")]
fn add_column<const LANE: i32>(acc: &mut Column, w: &Column, x: float32x4_t) {
    for (acc, w) in acc.iter_mut().zip(w) {
        *acc = vfmaq_laneq_f32::<LANE>(*acc, *w, x);
    }
}

/// One tile times rows `t..t + N`. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "neon")]
fn rows<const B: usize, const N: usize>(
    blocks: &[[u8; B]],
    x: &ActRows<'_>,
    t: usize,
    out: &mut [f32],
    load: impl Fn(&[u8; B], usize) -> Column + Copy,
) {
    let rows: [&[[f32; BLOCK]]; N] =
        std::array::from_fn(|i| &x.floats(t + i).as_chunks().0[..blocks.len()]);
    let mut acc = [[vdupq_n_f32(0.0); 4]; N];
    for (b, block) in blocks.iter().enumerate() {
        for k in (0..BLOCK).step_by(4) {
            let mut x = [vdupq_n_f32(0.0); N];
            for (x, row) in x.iter_mut().zip(&rows) {
                *x = load_f32x4(&row[b], k);
            }
            let w = load(block, k);
            (0..N).for_each(|i| add_column::<0>(&mut acc[i], &w, x[i]));
            let w = load(block, k + 1);
            (0..N).for_each(|i| add_column::<1>(&mut acc[i], &w, x[i]));
            let w = load(block, k + 2);
            (0..N).for_each(|i| add_column::<2>(&mut acc[i], &w, x[i]));
            let w = load(block, k + 3);
            (0..N).for_each(|i| add_column::<3>(&mut acc[i], &w, x[i]));
        }
    }
    for (i, acc) in acc.as_flattened().iter().enumerate() {
        store_f32x4(out, 4 * i, *acc);
    }
}
