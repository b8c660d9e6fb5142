//! Quantised tiles times rows of activations: the loops that all quantised types share.
//!
//! ```text
//! for each tile, each 8 rows of activations:
//!   for each block, each half of its rows:
//!     unpack into registers
//!     for each row of activations: one step
//! ```
//!
//! A *step* adds one block of 8 matrix rows times one row of activations to that pair's sums.
//! Unpacking again for each 8 rows costs a tenth of their steps; unpacked panels in memory, swept by
//! all rows, were measured to be slower for most types, as their codes do not stay in registers.

use std::arch::x86_64::{__m256, _mm256_mul_ps, _mm256_setzero_ps};

use chaski_quant::{ActRows, TILE_ROWS, TileRun};

use super::load::{load_f32x8_le, store_f32x8};

/// Rows that share an unpacked half block in registers.
const MAX_ROWS: usize = 8;

/// One block of a row of activations.
pub(super) struct ActBlock<'a> {
    pub(super) codes: &'a [i8; 32],
    pub(super) scale: f32,
    pub(super) sums: [i16; 2],
}

/// One row of activations, cut to the blocks of a tile.
#[derive(Clone, Copy)]
struct ActRow<'a> {
    codes: &'a [[i8; 32]],
    scales: &'a [f32],
    sums: &'a [[i16; 2]],
}

impl<'a> ActRow<'a> {
    #[inline]
    fn new(x: &ActRows<'a>, row: usize, n_blocks: usize) -> Self {
        Self {
            codes: &x.codes(row).as_chunks().0[..n_blocks],
            scales: &x.scales(row)[..n_blocks],
            sums: &x.sums(row)[..n_blocks],
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
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let (scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
        let blocks = &blocks.as_chunks().0[..w.n_blocks()];
        for (i, out) in out.chunks_mut(MAX_ROWS * TILE_ROWS).enumerate() {
            let t = i * MAX_ROWS;
            match out.len() / TILE_ROWS {
                1 => rows::<B, U, 1>(blocks, scales, x, t, out, unpack, step),
                2 => rows::<B, U, 2>(blocks, scales, x, t, out, unpack, step),
                3 => rows::<B, U, 3>(blocks, scales, x, t, out, unpack, step),
                4 => rows::<B, U, 4>(blocks, scales, x, t, out, unpack, step),
                5 => rows::<B, U, 5>(blocks, scales, x, t, out, unpack, step),
                6 => rows::<B, U, 6>(blocks, scales, x, t, out, unpack, step),
                7 => rows::<B, U, 7>(blocks, scales, x, t, out, unpack, step),
                _ => rows::<B, U, 8>(blocks, scales, x, t, out, unpack, step),
            }
        }
    }
}

/// One tile times rows `t..t + N` of the activations. `out`: `[N, 16]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const B: usize, U: Copy, const N: usize>(
    blocks: &[[u8; B]],
    scales: &[u8],
    x: &ActRows<'_>,
    t: usize,
    out: &mut [f32],
    unpack: impl Fn(&[u8; B], usize) -> U + Copy,
    step: impl Fn(&U, &ActBlock<'_>, __m256) -> __m256 + Copy,
) {
    let rows: [ActRow<'_>; N] = std::array::from_fn(|i| ActRow::new(x, t + i, blocks.len()));
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    for (b, block) in blocks.iter().enumerate() {
        for half in 0..2 {
            let unpacked = unpack(block, half);
            for i in 0..N {
                acc[i][half] = step(&unpacked, &rows[i].block(b), acc[i][half]);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            let scale = load_f32x8_le(scales, 32 * half);
            store_f32x8(out, i * TILE_ROWS + 8 * half, _mm256_mul_ps(acc, scale));
        }
    }
}
