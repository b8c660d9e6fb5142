//! What the matrix sweeps of all levels share: blocks of activations, unpacked block scales, panels.
//!
//! A tile block's quants, a vector of 64 bytes of 16 rows by 4 weights, are four registers: the
//! *quads*, rows 0..4, 4..8, 8..12 and 12..16. A quad's 32 weights are 8 registers, the *groups*, of
//! 4 rows by 4 weights each.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int16x4_t, int32x4_t, vaddq_s8, vcombine_s8, vcombine_s16, vdupq_n_f32,
    vfmaq_f32, vmovn_s16, vmulq_f32, vqtbl1q_s8, vreinterpretq_f32_s32, vreinterpretq_s32_f32,
    vsubq_f32,
};

use chaski_quant::{ActRows, TILE_ROWS, TileRun};

use super::load::{load_f32x4, load_f32x4_le, load_i8x16, load_u8x16, store_f32x4};

/// Groups of one quad.
pub(in crate::aarch64) type Groups = [int8x16_t; 8];

/// Block scales and offsets of 16 rows, four in a register. `H` of each: one for the whole block, or
/// one for each half of its weights (Q4H).
#[derive(Clone, Copy)]
pub(in crate::aarch64) struct Scales<const H: usize> {
    pub(in crate::aarch64) scale: [[float32x4_t; 4]; H],
    /// What a row's codes lack: value = code + offset.
    pub(in crate::aarch64) offset: [[int16x4_t; 4]; H],
}

/// One row of activations, cut to the blocks of a tile or of a panel.
#[derive(Clone, Copy)]
pub(in crate::aarch64) struct ActRow<'a> {
    pub(in crate::aarch64) codes: &'a [[i8; 32]],
    pub(in crate::aarch64) scales: &'a [f32],
    sums: &'a [[i16; 2]],
}

impl<'a> ActRow<'a> {
    /// Blocks `first..first + n` of row `row`.
    #[inline]
    fn new(x: &ActRows<'a>, row: usize, first: usize, n: usize) -> Self {
        Self {
            codes: &x.codes(row).as_chunks().0[first..first + n],
            scales: &x.scales(row)[first..first + n],
            sums: &x.sums(row)[first..first + n],
        }
    }
}

/// One block of a row of activations.
#[derive(Clone, Copy)]
pub(in crate::aarch64) struct ActBlock<'a> {
    pub(in crate::aarch64) codes: &'a [i8; 32],
    pub(in crate::aarch64) scale: f32,
    sums: [i16; 2],
}

impl ActBlock<'_> {
    /// The sum of the codes that share scale `h` of `H`.
    #[inline]
    pub(in crate::aarch64) fn sum<const H: usize>(&self, h: usize) -> i16 {
        let [low, high] = self.sums;
        match (H, h) {
            (1, _) => low + high,
            (_, 0) => low,
            _ => high,
        }
    }
}

/// Block `b` of each row.
///
/// A function without features, so that its loop's body can be inlined into the loop.
#[inline]
pub(in crate::aarch64) fn act_blocks<'a, const N: usize>(
    rows: &[ActRow<'a>; N],
    b: usize,
) -> [ActBlock<'a>; N] {
    std::array::from_fn(|i| ActBlock {
        codes: &rows[i].codes[b],
        scale: rows[i].scales[b],
        sums: rows[i].sums[b],
    })
}

/// Blocks `first..first + n` of rows `t..t + N`, with the last row again in the place of rows from
/// `t + end` on.
///
/// A function without features, so that its loop's body can be inlined into the loop.
#[inline]
pub(in crate::aarch64) fn act_rows<'a, const N: usize>(
    x: &ActRows<'a>,
    t: usize,
    end: usize,
    first: usize,
    n: usize,
) -> [ActRow<'a>; N] {
    std::array::from_fn(|i| ActRow::new(x, t + i.min(end - 1), first, n))
}

/// Four neighbouring groups of a panel.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn load_groups(values: &[i8; 512], at: usize) -> [int8x16_t; 4] {
    [
        load_i8x16(values, at),
        load_i8x16(values, at + 16),
        load_i8x16(values, at + 32),
        load_i8x16(values, at + 48),
    ]
}

/// Where integer sums of a block start: an integer that, read as a float, is 3 * 2^22, whose last
/// bit counts ones. Sums below 2^22 change no other bits but those of the integer that it counts.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn zero_sum() -> int32x4_t {
    vreinterpretq_s32_f32(vdupq_n_f32(12_582_912.0))
}

/// `acc` with the block of four rows added: `fma(f32(isum), scale, acc)`, `isum` counted from
/// [`zero_sum`].
///
/// The sum as a float is an exact difference; the instruction that converts integers costs twice as
/// much on Cortex-A72 and A76.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn add_block(
    acc: float32x4_t,
    isum: int32x4_t,
    scale: float32x4_t,
) -> float32x4_t {
    let isum = vsubq_f32(
        vreinterpretq_f32_s32(isum),
        vreinterpretq_f32_s32(zero_sum()),
    );
    vfmaq_f32(acc, isum, scale)
}

/// `codes + offset` as bytes: the values of a quad's weights.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn values<const H: usize>(
    codes: &Groups,
    scales: &Scales<H>,
    quad: usize,
) -> Groups {
    let four_times = load_u8x16(&[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3], 0);
    let mut values = *codes;
    for (g, value) in values.iter_mut().enumerate() {
        let offset = scales.offset[g * H / 8][quad];
        let bytes = vmovn_s16(vcombine_s16(offset, offset));
        let bytes = vqtbl1q_s8(vcombine_s8(bytes, bytes), four_times);
        *value = vaddq_s8(*value, bytes);
    }
    values
}

/// Multiplies the sums of the rows of a tile by the tile's row scales. `out`: `[rows, 16]`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn times_row_scales(out: &mut [f32], scales: &[u8]) {
    for out in out.chunks_exact_mut(TILE_ROWS) {
        for i in (0..TILE_ROWS).step_by(4) {
            let scale = load_f32x4_le(scales, 4 * i);
            store_f32x4(out, i, vmulq_f32(load_f32x4(out, i), scale));
        }
    }
}

/// Tile blocks whose values a panel holds: with their scales at most 10 KiB, so that a panel and
/// the activations that it meets fit the first-level cache of every CPU.
pub(in crate::aarch64) const PANEL_BLOCKS: usize = 16;

/// Every tile of `w` times every row of `x`, by panels: some blocks of a tile are unpacked once into
/// memory and swept by all rows of activations, whose sums wait in `out` from panel to panel.
///
/// ```text
/// for each tile, each panel of blocks:
///   for each block: fill
///   for each 4 rows of activations: rows
/// ```
///
/// * `panel`: room for [`PANEL_BLOCKS`] blocks.
/// * `fill(block, panel_block)`: unpacks a tile block of `B` bytes.
/// * `rows(panel, x, first_row, first_block, out)`: adds the panel times as many rows as `out`,
///   `[1..=4, 16]`, has.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn sweep_panels<const B: usize, P>(
    w: &TileRun<'_>,
    x: &ActRows<'_>,
    out: &mut [f32],
    panel: &mut [P; PANEL_BLOCKS],
    fill: impl Fn(&[u8; B], &mut P),
    rows: impl Fn(&[P], &ActRows<'_>, usize, usize, &mut [f32]),
) {
    // Panels of equal size: a last one of few blocks would cost more than its share.
    let n_panels = w.n_blocks().div_ceil(PANEL_BLOCKS);
    let panel_len = w.n_blocks().div_ceil(n_panels);
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let (scales, blocks) = w.tile(i).split_at(4 * TILE_ROWS);
        let blocks = &blocks.as_chunks().0[..w.n_blocks()];
        out.fill(0.0);
        for (p, blocks) in blocks.chunks(panel_len).enumerate() {
            let panel = &mut panel[..blocks.len()];
            for (block, panel) in blocks.iter().zip(&mut *panel) {
                fill(block, panel);
            }
            for (i, out) in out.chunks_mut(4 * TILE_ROWS).enumerate() {
                rows(panel, x, 4 * i, p * panel_len, out);
            }
        }
        times_row_scales(out, scales);
    }
}
