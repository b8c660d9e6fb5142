//! Quantised tiles times rows of activations: the loops that all quantised types share.
//!
//! ```text
//! up to 8 rows:  for each tile, block, half: unpack into registers; for each row: one step
//! more rows:     for each tile and panel of 32 blocks: unpack into the panel (on the stack);
//!                for each 8 rows, block, half: one step each
//! ```
//!
//! A *step* adds one block of 8 matrix rows times one row of activations to that pair's sums. The
//! order of steps of one sum is that of the blocks in both cases.

use std::arch::x86_64::{__m256, _mm256_mul_ps, _mm256_setzero_ps};

use chaski_quant::{ActRows, TILE_ROWS, TileRun};

use super::load::{load_f32x8, load_f32x8_le, store_f32x8};

/// Blocks of a panel: 64 unpacked half blocks of some 320 bytes fill two thirds of a 32 KiB cache.
const PANEL: usize = 32;
/// Rows that share an unpacked half block in registers.
const MAX_ROWS: usize = 8;

/// One block of a row of activations.
pub(super) struct ActBlock<'a> {
    pub(super) codes: &'a [i8; 32],
    pub(super) scale: f32,
    pub(super) sums: [i16; 2],
}

/// One row of activations, cut to the blocks that are walked over.
#[derive(Clone, Copy)]
struct ActRow<'a> {
    codes: &'a [[i8; 32]],
    scales: &'a [f32],
    sums: &'a [[i16; 2]],
}

impl<'a> ActRow<'a> {
    #[inline]
    fn new(x: &ActRows<'a>, row: usize, first: usize, n: usize) -> Self {
        Self {
            codes: &x.codes(row).as_chunks().0[first..first + n],
            scales: &x.scales(row)[first..first + n],
            sums: &x.sums(row)[first..first + n],
        }
    }

    #[inline]
    fn block(&self, b: usize) -> ActBlock<'a> {
        ActBlock {
            codes: &self.codes[b],
            scale: self.scales[b],
            sums: self.sums[b],
        }
    }
}

/// Every tile of `w` times every row of `x`.
///
/// * `unpack(block, half)`: what a step needs of rows `8 half .. 8 half + 8` of a tile block of `B`
///   bytes.
/// * `step(unpacked, act, sums)`: the sums with the block added.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sweep<const B: usize, U: Copy>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    unpack: impl Fn(&[u8; B], usize) -> U + Copy,
    step: impl Fn(&U, &ActBlock<'_>, __m256) -> __m256 + Copy,
) {
    let n_rows = x.n_rows();
    if n_rows > MAX_ROWS {
        return sweep_panels(w, x, out, unpack, step);
    }
    for (i, out) in out.chunks_exact_mut(n_rows * TILE_ROWS).enumerate() {
        let (scales, blocks) = split(w.tile(i), w.n_blocks());
        match n_rows {
            1 => few::<B, U, 1>(blocks, scales, x, out, unpack, step),
            2 => few::<B, U, 2>(blocks, scales, x, out, unpack, step),
            3 => few::<B, U, 3>(blocks, scales, x, out, unpack, step),
            4 => few::<B, U, 4>(blocks, scales, x, out, unpack, step),
            5 => few::<B, U, 5>(blocks, scales, x, out, unpack, step),
            6 => few::<B, U, 6>(blocks, scales, x, out, unpack, step),
            7 => few::<B, U, 7>(blocks, scales, x, out, unpack, step),
            _ => few::<B, U, 8>(blocks, scales, x, out, unpack, step),
        }
    }
}

/// Row scales and blocks of a tile.
#[inline]
fn split<const B: usize>(tile: &[u8], n_blocks: usize) -> (&[u8], &[[u8; B]]) {
    let (scales, blocks) = tile.split_at(4 * TILE_ROWS);
    (scales, &blocks.as_chunks().0[..n_blocks])
}

/// One tile times `N` rows. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few<const B: usize, U: Copy, const N: usize>(
    blocks: &[[u8; B]],
    scales: &[u8],
    x: &ActRows<'_>,
    out: &mut [f32],
    unpack: impl Fn(&[u8; B], usize) -> U + Copy,
    step: impl Fn(&U, &ActBlock<'_>, __m256) -> __m256 + Copy,
) {
    let rows: [ActRow<'_>; N] = std::array::from_fn(|t| ActRow::new(x, t, 0, blocks.len()));
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    for (b, block) in blocks.iter().enumerate() {
        for half in 0..2 {
            let unpacked = unpack(block, half);
            for t in 0..N {
                acc[t][half] = step(&unpacked, &rows[t].block(b), acc[t][half]);
            }
        }
    }
    for (t, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            let scale = load_f32x8_le(scales, 32 * half);
            store_f32x8(out, t * TILE_ROWS + 8 * half, _mm256_mul_ps(acc, scale));
        }
    }
}

/// As [`sweep`], for many rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sweep_panels<const B: usize, U: Copy>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    unpack: impl Fn(&[u8; B], usize) -> U + Copy,
    step: impl Fn(&U, &ActBlock<'_>, __m256) -> __m256 + Copy,
) {
    let n_rows = x.n_rows();
    let mut panel = [[unpack(&[0; B], 0); 2]; PANEL];
    for (i, out) in out.chunks_exact_mut(n_rows * TILE_ROWS).enumerate() {
        let (scales, blocks) = split(w.tile(i), w.n_blocks());
        // The sums wait in `out` from panel to panel.
        out.fill(0.0);
        for (p, blocks) in blocks.chunks(PANEL).enumerate() {
            for (unpacked, block) in panel.iter_mut().zip(blocks) {
                *unpacked = [unpack(block, 0), unpack(block, 1)];
            }
            let (panel, first) = (&panel[..blocks.len()], p * PANEL);
            for (i, out) in out.chunks_mut(MAX_ROWS * TILE_ROWS).enumerate() {
                let t = i * MAX_ROWS;
                match out.len() / TILE_ROWS {
                    1 => many::<U, 1>(panel, x, first, t, out, step),
                    2 => many::<U, 2>(panel, x, first, t, out, step),
                    3 => many::<U, 3>(panel, x, first, t, out, step),
                    4 => many::<U, 4>(panel, x, first, t, out, step),
                    5 => many::<U, 5>(panel, x, first, t, out, step),
                    6 => many::<U, 6>(panel, x, first, t, out, step),
                    7 => many::<U, 7>(panel, x, first, t, out, step),
                    _ => many::<U, 8>(panel, x, first, t, out, step),
                }
            }
        }
        for out in out.chunks_exact_mut(TILE_ROWS) {
            for half in 0..2 {
                let acc = load_f32x8(out, 8 * half);
                store_f32x8(
                    out,
                    8 * half,
                    _mm256_mul_ps(acc, load_f32x8_le(scales, 32 * half)),
                );
            }
        }
    }
}

/// A panel times rows `t..t + N` of the activations, whose blocks `first..` the panel covers.
/// `out`: `[N, 16]`, the sums so far.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn many<U: Copy, const N: usize>(
    panel: &[[U; 2]],
    x: &ActRows<'_>,
    first: usize,
    t: usize,
    out: &mut [f32],
    step: impl Fn(&U, &ActBlock<'_>, __m256) -> __m256 + Copy,
) {
    let rows: [ActRow<'_>; N] = std::array::from_fn(|i| ActRow::new(x, t + i, first, panel.len()));
    for half in 0..2 {
        let mut acc: [__m256; N] =
            std::array::from_fn(|i| load_f32x8(out, i * TILE_ROWS + 8 * half));
        for (b, unpacked) in panel.iter().enumerate() {
            for i in 0..N {
                acc[i] = step(&unpacked[half], &rows[i].block(b), acc[i]);
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            store_f32x8(out, i * TILE_ROWS + 8 * half, acc);
        }
    }
}
