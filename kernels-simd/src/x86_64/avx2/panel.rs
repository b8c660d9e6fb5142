//! What all kernels of quantised matrices on 256 bits share: unpacked blocks, rows of activations,
//! and sums on their way in and out.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_ps,
    _mm256_setzero_si256,
};

use chaski_quant::{ActRows, TILE_ROWS};

use super::load::{load_f32x8, load_f32x8_le, store_f32x8};

/// Blocks of a panel: 18 KiB of weights, and 4 KiB of activations for four rows.
pub(in crate::x86_64) const CHUNK: usize = 32;

/// Bytes of codes of the rows of activations that all tiles pass over before the next ones, and how
/// many rows these are at least.
pub(in crate::x86_64) const ROWS_BYTES: usize = 256 << 10;
pub(in crate::x86_64) const MIN_PART: usize = 32;

/// Rows of activations at a time: their sums, two registers each, and a group's operands are all
/// that 16 registers hold.
pub(in crate::x86_64) const ROWS: usize = 4;

/// Instead of a half of a tile's rows, 0 or 1: both.
pub(in crate::x86_64) const BOTH: usize = 2;

/// The first half that `h` stands for.
pub(in crate::x86_64) const fn first_half(h: usize) -> usize {
    if h == BOTH { 0 } else { h }
}

/// One behind the last half that `h` stands for.
pub(in crate::x86_64) const fn end_half(h: usize) -> usize {
    if h == BOTH { 2 } else { h + 1 }
}

/// A block of a tile, unpacked: `V` groups and `S` scales (2 where the halves of a block have their
/// own), each for the rows 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(in crate::x86_64) struct PanelBlock<const V: usize, const S: usize> {
    /// Groups 0..8, each 8 rows by 4 unsigned values; of signed types the magnitudes, followed by
    /// the values themselves in 8..16.
    pub(in crate::x86_64) values: [[__m256i; 2]; V],
    /// Block scales.
    pub(in crate::x86_64) scales: [[__m256; 2]; S],
}

impl<const V: usize, const S: usize> PanelBlock<V, S> {
    /// Zeros.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::x86_64) fn zero() -> Self {
        Self {
            values: [[_mm256_setzero_si256(); 2]; V],
            scales: [[_mm256_setzero_ps(); 2]; S],
        }
    }
}

/// One row of activations, cut to some blocks.
#[derive(Clone, Copy)]
pub(in crate::x86_64) struct ActRow<'a> {
    pub(in crate::x86_64) codes: &'a [[i8; 32]],
    pub(in crate::x86_64) scales: &'a [f32],
    pub(in crate::x86_64) sums: &'a [[i16; 2]],
}

impl<'a> ActRow<'a> {
    /// Blocks `first..first + n` of rows `t..t + N`.
    ///
    /// No closure: one that has a level's instructions is not inlined into `from_fn`, which has not,
    /// and then the loops do not see that all slices are `n` long.
    #[inline(always)]
    pub(in crate::x86_64) fn parts<const N: usize>(
        x: &ActRows<'a>,
        t: usize,
        first: usize,
        n: usize,
    ) -> [Self; N] {
        let mut rows = [Self {
            codes: &[],
            scales: &[],
            sums: &[],
        }; N];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = Self {
                codes: &x.codes(t + i).as_chunks().0[first..][..n],
                scales: &x.scales(t + i)[first..][..n],
                sums: &x.sums(t + i)[first..][..n],
            };
        }
        rows
    }
}

/// `out` times the row scales. `out`: `[rows, 16]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn scale_rows(scales: &[u8], out: &mut [f32]) {
    let scales = [load_f32x8_le(scales, 0), load_f32x8_le(scales, 32)];
    for out in out.chunks_exact_mut(TILE_ROWS) {
        for half in 0..2 {
            let scaled = _mm256_mul_ps(load_f32x8(out, 8 * half), scales[half]);
            store_f32x8(out, 8 * half, scaled);
        }
    }
}

/// Sums of `N` rows: zeros before block 0, else what `out`, `[N, 16]`, holds.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn load_sums<const N: usize>(first: usize, out: &[f32]) -> [[__m256; 2]; N] {
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    if first != 0 {
        for (i, acc) in acc.iter_mut().enumerate() {
            for (half, acc) in acc.iter_mut().enumerate() {
                *acc = load_f32x8(out, i * TILE_ROWS + 8 * half);
            }
        }
    }
    acc
}

/// `out = acc`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn store_sums<const N: usize>(acc: [[__m256; 2]; N], out: &mut [f32]) {
    for (i, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            store_f32x8(out, i * TILE_ROWS + 8 * half, acc);
        }
    }
}

/// `-offset` for the sums of a block's codes that scale `s` of `n_scales` belongs to.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn minus_offset(offset: i16, n_scales: usize, s: usize) -> __m256i {
    let (minus, pair) = (i32::from(-offset), 0xffff);
    match (n_scales, s) {
        (1, _) => _mm256_set1_epi16(-offset),
        (_, 0) => _mm256_set1_epi32(minus & pair),
        _ => _mm256_set1_epi32(minus << 16),
    }
}
