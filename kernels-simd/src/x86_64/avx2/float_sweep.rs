//! Float tiles times rows of activations: `acc = fma(w, x, acc)` over k in order, lane = row.

use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps};

use chaski_quant::{ActRows, BLOCK, TILE_ROWS, TileRun};

use super::load::store_f32x8;
use crate::x86_64::fetch::{distance, fetch_beyond};

/// Rows at a time: two sums each, enough to hide the latency of the fused steps.
const MAX_ROWS: usize = 4;

/// Every tile of `w` times every row of `x`.
///
/// * `load(block, i)`: weights `i..i + 8` of a tile block of `B` bytes, which is `[32][16]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn float_sweep<const B: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    load: impl Fn(&[u8; B], usize) -> __m256 + Copy,
) {
    let ahead = distance(x.n_rows());
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let blocks = &w.tile(i).as_chunks().0[..w.n_blocks()];
        for (i, out) in out.chunks_mut(MAX_ROWS * TILE_ROWS).enumerate() {
            let t = i * MAX_ROWS;
            match out.len() / TILE_ROWS {
                1 => rows::<B, 1>(blocks, x, t, out, ahead, load),
                2 => rows::<B, 2>(blocks, x, t, out, ahead, load),
                3 => rows::<B, 3>(blocks, x, t, out, ahead, load),
                _ => rows::<B, 4>(blocks, x, t, out, ahead, load),
            }
        }
    }
}

/// One tile times rows `t..t + N`. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const B: usize, const N: usize>(
    blocks: &[[u8; B]],
    x: &ActRows<'_>,
    t: usize,
    out: &mut [f32],
    ahead: usize,
    load: impl Fn(&[u8; B], usize) -> __m256 + Copy,
) {
    let mut rows: [&[[f32; BLOCK]]; N] = [&[]; N];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &x.floats(t + i).as_chunks().0[..blocks.len()];
    }
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    for (b, block) in blocks.iter().enumerate() {
        fetch_beyond(block, ahead);
        for k in 0..BLOCK {
            let w = [load(block, k * TILE_ROWS), load(block, k * TILE_ROWS + 8)];
            for i in 0..N {
                let x = _mm256_set1_ps(rows[i][b][k]);
                acc[i][0] = _mm256_fmadd_ps(w[0], x, acc[i][0]);
                acc[i][1] = _mm256_fmadd_ps(w[1], x, acc[i][1]);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        store_f32x8(out, i * TILE_ROWS, acc[0]);
        store_f32x8(out, i * TILE_ROWS + 8, acc[1]);
    }
}
