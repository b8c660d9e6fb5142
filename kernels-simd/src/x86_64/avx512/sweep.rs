//! Quantised tiles times rows of activations: the loops that all quantised types share.
//!
//! ```text
//! up to 16 rows    for each tile, each 8 rows, each block: unpack into 8 registers, one step for
//!                  each row
//! more             for each 256 rows, each tile and each 16 blocks (in which order: CHUNK_BYTES):
//!                  unpack into a panel in the first-level cache; for each 8 rows: for each block:
//!                  8 vectors times 8 rows
//! ```
//!
//! A vector is 16 matrix rows by 4 weights, so lane = row throughout. A *step* adds one block times
//! one row of activations to that row's sums. Both ways do the same operations for each output: where
//! a panel ends, the sums rest in `out`.

use std::{
    arch::x86_64::{
        __m512, __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
        _mm512_madd_epi16, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    },
    array,
};

use chaski_quant::{ActRows, BLOCK, TILE_ROWS, TileRun};

use super::load::{
    broadcast_codes, broadcast_i32, broadcast_pair, load_f32x16, load_f32x16_le, load_pairs_padded,
    load_u8x64, store_f32x16, store_i32x16, store_u8x64,
};
use crate::{
    row_view::RowView,
    x86_64::fetch::{distance, fetch_ahead, fetch_beyond},
};

/// Rows that share an unpacked block in registers.
const GROUP_ROWS: usize = 8;
/// Rows up to which that is faster than panels, which have to be stored and loaded again.
pub(super) const FEW_ROWS: usize = 2 * GROUP_ROWS;
/// Rows that share a block of two panels: as many integer and float sums for each in registers.
const PANEL_ROWS: usize = 4;
/// Rows whose activations stay in the second-level cache while all tiles of a call pass.
const CHUNK_ROWS: usize = 256;
/// Codes of a chunk's rows that may be walked for each tile, all panels of it in turn. That reads the
/// weights in one stream; with more codes all tiles take the same panel in turn, so that its columns
/// of the activations stay in the cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Blocks of a panel: 8 KiB of codes.
const PANEL_BLOCKS: usize = 16;

/// A tile block in registers, with `H` scales for each row: 1, or 2 of which each holds for one half
/// of the weights.
#[derive(Clone, Copy)]
pub(super) struct Unpacked<const H: usize> {
    /// Groups 0..8, each 16 rows by 4 unsigned bytes.
    pub(super) bytes: [__m512i; 8],
    /// What is to be added to the bytes to make them values, twice in each lane.
    pub(super) offset: [__m512i; H],
    /// Block scales.
    pub(super) scale: [__m512; H],
}

impl<const H: usize> Panel<H> {
    /// Puts an unpacked block into place `b`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn put(&mut self, b: usize, w: &Unpacked<H>) {
        let (bytes, scales) = (&mut self.bytes[b], &mut self.scales[b]);
        for g in 0..8 {
            store_u8x64(&mut bytes[g], w.bytes[g]);
        }
        for h in 0..H {
            store_f32x16(&mut scales[h], 0, w.scale[h]);
        }
    }
}

/// How a tile block of `B` bytes is unpacked.
pub(super) trait UnpackBlock<const B: usize, const H: usize>:
    Fn(&[u8; B]) -> Unpacked<H> + Copy
{
}

impl<const B: usize, const H: usize, F: Fn(&[u8; B]) -> Unpacked<H> + Copy> UnpackBlock<B, H>
    for F
{
}

/// Unpacked blocks in memory.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Panel<const H: usize> {
    bytes: [[[u8; 64]; 8]; PANEL_BLOCKS],
    scales: [[[f32; TILE_ROWS]; H]; PANEL_BLOCKS],
}

/// Every tile of `w` times every row of `x`.
///
/// * `unpack(block)`: a tile block of `B` bytes in registers.
/// * `unpack_uniform(block)`: the same with an offset of `offset` in every lane, for panels. Two
///   closures and not one with a flag: it would be too long to be inlined where it matters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sweep<const B: usize, const H: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    offset: i16,
    unpack: impl UnpackBlock<B, H>,
    unpack_uniform: impl UnpackBlock<B, H>,
) {
    if x.n_rows() > FEW_ROWS {
        return many::<B, H>(w, x, out, offset, |panel, blocks| {
            for (b, block) in blocks.iter().enumerate() {
                panel.put(b, &unpack_uniform(block));
            }
        });
    }
    // Equal groups of at most 8 rows: the second finds the tile in the cache.
    let most = x.n_rows().div_ceil(x.n_rows().div_ceil(GROUP_ROWS)).max(1);
    let ahead = distance(x.n_rows());
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let (scales, blocks) = tile(w, i);
        for (g, out) in out.chunks_mut(most * TILE_ROWS).enumerate() {
            let t = g * most;
            match out.len() / TILE_ROWS {
                1 => few::<B, H, 1>(blocks, scales, x, t, out, ahead, unpack),
                2 => few::<B, H, 2>(blocks, scales, x, t, out, ahead, unpack),
                3 => few::<B, H, 3>(blocks, scales, x, t, out, ahead, unpack),
                4 => few::<B, H, 4>(blocks, scales, x, t, out, ahead, unpack),
                5 => few::<B, H, 5>(blocks, scales, x, t, out, ahead, unpack),
                6 => few::<B, H, 6>(blocks, scales, x, t, out, ahead, unpack),
                7 => few::<B, H, 7>(blocks, scales, x, t, out, ahead, unpack),
                _ => few::<B, H, GROUP_ROWS>(blocks, scales, x, t, out, ahead, unpack),
            }
        }
    }
}

/// Row scales and blocks of tile `i`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile<'a, const B: usize>(w: &TileRun<'a>, i: usize) -> (__m512, &'a [[u8; B]]) {
    let (scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
    let blocks = &blocks.as_chunks().0[..w.n_blocks()];
    (load_f32x16_le(scales, 0), blocks)
}

/// `acc + isum * (bs * d)`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_block(isum: __m512i, bs: __m512, d: f32, acc: __m512) -> __m512 {
    let scale = _mm512_mul_ps(bs, _mm512_set1_ps(d));
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum), scale, acc)
}

/// One tile times rows `t..t + N`. `ahead`: how many bytes ahead of a block to fetch.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn few<const B: usize, const H: usize, const N: usize>(
    blocks: &[[u8; B]],
    row_scales: __m512,
    x: &ActRows<'_>,
    t: usize,
    out: &mut [f32],
    ahead: usize,
    unpack: impl UnpackBlock<B, H>,
) {
    let rows = RowView::<N>::new(x, t, 0, blocks.len());
    let mut acc = [_mm512_setzero_ps(); N];
    for (b, block) in blocks.iter().enumerate() {
        fetch_beyond(block, ahead);
        let w = unpack(block);
        for i in 0..N {
            let (codes, d, sums) = (rows.codes(i, b), rows.scale(i, b), rows.sums(i, b));
            for h in 0..H {
                let sums = match (H, h) {
                    (1, _) => sums,
                    (_, 0) => [sums[0], 0],
                    _ => [0, sums[1]],
                };
                let mut isum = _mm512_madd_epi16(w.offset[h], broadcast_pair(sums));
                for g in h * 8 / H..(h + 1) * 8 / H {
                    isum = _mm512_dpbusd_epi32(isum, w.bytes[g], broadcast_codes(codes, g));
                }
                acc[i] = add_block(isum, w.scale[h], d, acc[i]);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        store_f32x16(out, i * TILE_ROWS, _mm512_mul_ps(acc, row_scales));
    }
}

/// Every tile times any number of rows, by panels. `fill` unpacks up to 16 blocks into a panel; for
/// the other arguments see [`sweep`].
///
/// Not one block: `fill` may enable more than this function, and is then not inlined here.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn many<const B: usize, const H: usize>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    offset: i16,
    fill: impl Fn(&mut Panel<H>, &[[u8; B]]),
) {
    let empty = Panel {
        bytes: [[[0; 64]; 8]; PANEL_BLOCKS],
        scales: [[[0.0; TILE_ROWS]; H]; PANEL_BLOCKS],
    };
    let mut panels = [empty; 2];
    let (n_tiles, n_panels) = (w.n_tiles(), w.n_blocks().div_ceil(PANEL_BLOCKS));
    let (n_rows, n_pairs) = (x.n_rows(), n_tiles.div_ceil(2));
    for from in (0..n_rows).step_by(CHUNK_ROWS) {
        let to = n_rows.min(from + CHUNK_ROWS);
        let by_tile = (to - from) * w.n_blocks() * BLOCK <= CHUNK_BYTES;
        // First tile and number of the panel.
        let place = |step: usize| {
            let (pair, p) = if by_tile {
                (step / n_panels, step % n_panels)
            } else {
                (step % n_pairs, step / n_pairs)
            };
            (2 * pair, p)
        };
        let blocks_of = |i: usize, p: usize| {
            let (row_scales, blocks) = tile(w, i);
            let first = p * PANEL_BLOCKS;
            let last = w.n_blocks().min(first + PANEL_BLOCKS);
            let row_scales = (last == w.n_blocks()).then_some(row_scales);
            (&blocks[first..last], row_scales)
        };
        for step in 0..n_pairs * n_panels {
            let (i, p) = place(step);
            let n = (n_tiles - i).min(2);
            let mut row_scales = [None; 2];
            for t in 0..n {
                let (blocks, scales) = blocks_of(i + t, p);
                fill(&mut panels[t], blocks);
                row_scales[t] = scales;
            }
            let first = p * PANEL_BLOCKS;
            let n_blocks = PANEL_BLOCKS.min(w.n_blocks() - first);
            let mut ahead: [&[u8]; 2] = [&[]; 2];
            if step + 1 < n_pairs * n_panels {
                let (i, p) = place(step + 1);
                for t in 0..(n_tiles - i).min(2) {
                    ahead[t] = blocks_of(i + t, p).0.as_flattened();
                }
            }
            let out = &mut out[i * n_rows * TILE_ROWS..(i + n) * n_rows * TILE_ROWS];
            let rows = from * TILE_ROWS..to * TILE_ROWS;
            if n == 2 {
                let (a, b) = out.split_at_mut(n_rows * TILE_ROWS);
                let outs = [&mut a[rows.clone()], &mut b[rows]];
                groups(
                    &panels,
                    (first, n_blocks, row_scales),
                    x,
                    from,
                    outs,
                    offset,
                    ahead,
                );
            } else {
                let run = (first, n_blocks, [row_scales[0]]);
                let ([panel, _], [ahead, _]) = (&panels, ahead);
                groups(
                    array::from_ref(panel),
                    run,
                    x,
                    from,
                    [&mut out[rows]],
                    offset,
                    [ahead],
                );
            }
        }
    }
}

/// Panels of `T` tiles times the rows from `t` on, as many as `out` has. `run`: see [`group`]; `ahead`: what
/// will be unpacked next, fetched meanwhile.
#[inline(never)] // once for each number of scales, not for each type
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn groups<const H: usize, const T: usize>(
    panels: &[Panel<H>; T],
    run: (usize, usize, [Option<__m512>; T]),
    x: &ActRows<'_>,
    mut t: usize,
    mut out: [&mut [f32]; T],
    offset: i16,
    ahead: [&[u8]; T],
) {
    let n_rows = out[0].len() / TILE_ROWS;
    let n_groups = n_rows.div_ceil(PANEL_ROWS).max(1);
    let step = |ahead: &[u8]| ahead.len().div_ceil(n_groups).next_multiple_of(64).max(64);
    let mut ahead = ahead.map(|ahead| ahead.chunks(step(ahead)));
    let mut from = 0;
    while from < n_rows {
        for ahead in &mut ahead {
            fetch_ahead(ahead.next().unwrap_or_default());
        }
        let n = PANEL_ROWS.min(n_rows - from);
        match n {
            1 => group::<H, T, 1>(panels, run, x, t, from, &mut out, offset),
            2 => group::<H, T, 2>(panels, run, x, t, from, &mut out, offset),
            3 => group::<H, T, 3>(panels, run, x, t, from, &mut out, offset),
            _ => group::<H, T, PANEL_ROWS>(panels, run, x, t, from, &mut out, offset),
        }
        t += n;
        from += n;
    }
}

/// Panels of `T` tiles times rows `t..t + N`. `run`: their first block, how many they have, and the row scales
/// where it is the last one. `out`: `[rows, 16]` of each tile, from row `from` on the sums of the blocks before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn group<const H: usize, const T: usize, const N: usize>(
    panels: &[Panel<H>; T],
    (first, n_blocks, last): (usize, usize, [Option<__m512>; T]),
    x: &ActRows<'_>,
    t: usize,
    from: usize,
    out: &mut [&mut [f32]; T],
    offset: i16,
) {
    let rows = RowView::<N>::new(x, t, first, n_blocks);
    // The offset times the sums of the codes: of each row and half, for up to 16 blocks at once.
    let mut corrections = [[[0; PANEL_BLOCKS]; N]; H];
    for h in 0..H {
        let offset = broadcast_pair(match (H, h) {
            (1, _) => [offset; 2],
            (_, 0) => [offset, 0],
            _ => [0, offset],
        });
        for i in 0..N {
            let sums = load_pairs_padded(rows.row_sums(i));
            store_i32x16(&mut corrections[h][i], _mm512_madd_epi16(sums, offset));
        }
    }
    let mut acc = [[_mm512_setzero_ps(); N]; T];
    if first > 0 {
        for p in 0..T {
            let out = out[p].as_chunks::<TILE_ROWS>().0[from..]
                .first_chunk::<N>()
                .expect("N rows");
            for i in 0..N {
                acc[p][i] = load_f32x16(&out[i], 0);
            }
        }
    }
    for b in 0..rows.n_blocks().min(PANEL_BLOCKS) {
        for h in 0..H {
            let mut isum = [[_mm512_setzero_si512(); N]; T];
            for i in 0..N {
                let correction = broadcast_i32(&corrections[h][i], b);
                for p in 0..T {
                    isum[p][i] = correction;
                }
            }
            for g in h * 8 / H..(h + 1) * 8 / H {
                add_group(panels, &rows, b, g, &mut isum);
            }
            for p in 0..T {
                let bs = load_f32x16(&panels[p].scales[b][h], 0);
                for i in 0..N {
                    acc[p][i] = add_block(isum[p][i], bs, rows.scale(i, b), acc[p][i]);
                }
            }
        }
    }
    for p in 0..T {
        let out = out[p].as_chunks_mut::<TILE_ROWS>().0[from..]
            .first_chunk_mut::<N>()
            .expect("N rows");
        for i in 0..N {
            let sum = last[p].map_or(acc[p][i], |scales| _mm512_mul_ps(acc[p][i], scales));
            store_f32x16(&mut out[i], 0, sum);
        }
    }
}

/// Adds group `g` of block `b` of `T` panels times `N` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_group<const H: usize, const T: usize, const N: usize>(
    panels: &[Panel<H>; T],
    rows: &RowView<'_, N>,
    b: usize,
    g: usize,
    isum: &mut [[__m512i; N]; T],
) {
    let mut w = [_mm512_setzero_si512(); T];
    for p in 0..T {
        w[p] = load_u8x64(&panels[p].bytes[b][g], 0);
    }
    for i in 0..N {
        let codes = broadcast_codes(rows.codes(i, b), g);
        for p in 0..T {
            isum[p][i] = _mm512_dpbusd_epi32(isum[p][i], w[p], codes);
        }
    }
}
