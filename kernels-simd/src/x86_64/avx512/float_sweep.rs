//! Float tiles times rows of activations: `acc = fma(w, x, acc)` over k in order, lane = row.

use std::arch::x86_64::{__m512, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};

use chaski_quant::{ActRows, BLOCK, TILE_ROWS, TileRun};

use super::load::store_f32x16;
use crate::x86_64::fetch::{distance, fetch_beyond};

/// Rows at a time: enough sums to hide the latency of the fused steps.
const MAX_ROWS: usize = 8;

/// Every tile of `w` times every row of `x`.
///
/// * `load(block, i)`: weights `i..i + 16` of a tile block of `B` bytes, which is `[32][16]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn float_sweep<const B: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    load: impl Fn(&[u8; B], usize) -> __m512 + Copy,
) {
    let ahead = distance(x.n_rows());
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let blocks = &w.tile(i).as_chunks().0[..w.n_blocks()];
        let (mut t, mut rest) = (0, out);
        while !rest.is_empty() {
            let n = match rest.len() / TILE_ROWS {
                n @ 1..4 => n,
                4..8 => 4,
                _ => MAX_ROWS,
            };
            let (out, after) = rest.split_at_mut(n * TILE_ROWS);
            match n {
                1 => rows::<B, 1>(blocks, x, t, out, ahead, load),
                2 => rows::<B, 2>(blocks, x, t, out, ahead, load),
                3 => rows::<B, 3>(blocks, x, t, out, ahead, load),
                4 => rows::<B, 4>(blocks, x, t, out, ahead, load),
                _ => rows::<B, MAX_ROWS>(blocks, x, t, out, ahead, load),
            }
            (t, rest) = (t + n, after);
        }
    }
}

/// One tile times rows `t..t + N`. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const B: usize, const N: usize>(
    blocks: &[[u8; B]],
    x: &ActRows<'_>,
    t: usize,
    out: &mut [f32],
    ahead: usize,
    load: impl Fn(&[u8; B], usize) -> __m512 + Copy,
) {
    let mut rows: [&[[f32; BLOCK]]; N] = [&[]; N];
    for i in 0..N {
        rows[i] = &x.floats(t + i).as_chunks().0[..blocks.len()];
    }
    let mut acc = [_mm512_setzero_ps(); N];
    for (b, block) in blocks.iter().enumerate() {
        fetch_beyond(block, ahead);
        let mut x = [&[0.0; BLOCK]; N];
        for i in 0..N {
            x[i] = &rows[i][b];
        }
        for k in 0..BLOCK {
            let w = load(block, k * TILE_ROWS);
            for i in 0..N {
                acc[i] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[i][k]), acc[i]);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        store_f32x16(out, i * TILE_ROWS, acc);
    }
}
