//! Rows of activations that a kernel walks together, checked once instead of at every access.
#![allow(unsafe_code)] // unchecked reads

use std::marker::PhantomData;

use chaski_quant::{ActRows, BLOCK};

/// Blocks `first..first + n_blocks` of `N` neighbouring rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowView<'a, const N: usize> {
    /// The first block of the first row.
    codes: *const i8,
    scales: *const f32,
    sums: *const [i16; 2],
    /// Blocks from one row to the next.
    stride: usize,
    n_blocks: usize,
    rows: PhantomData<&'a ()>,
}

impl<'a, const N: usize> RowView<'a, N> {
    /// Blocks `first..first + n_blocks` of rows `row..row + N`.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[inline(always)] // a call would cost as much as a block
    pub(crate) fn new(x: &ActRows<'a>, row: usize, first: usize, n_blocks: usize) -> Self {
        assert!(N > 0 && row + N <= x.n_rows(), "{N} rows from row {row}");
        assert!(
            first + n_blocks <= x.n_blocks(),
            "{n_blocks} blocks from {first}"
        );
        let (codes, scales, sums) = x.quantized();
        let at = row * x.n_blocks() + first;
        Self {
            codes: codes[at * BLOCK..].as_ptr(),
            scales: scales[at..].as_ptr(),
            sums: sums[at..].as_ptr(),
            stride: x.n_blocks(),
            n_blocks,
            rows: PhantomData,
        }
    }

    /// Blocks of each row.
    #[inline]
    pub(crate) const fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Elements from the first block of row 0 to block `b` of row `i`.
    #[inline]
    fn at(&self, i: usize, b: usize) -> usize {
        assert!(i < N && b < self.n_blocks, "block {b} of row {i}");
        i * self.stride + b
    }

    /// Codes of block `b` of row `i`.
    #[inline]
    pub(crate) fn codes(&self, i: usize, b: usize) -> &'a [i8; BLOCK] {
        // SAFETY: `ActRows` holds rows of `stride` blocks of 32 codes in one slice that lives for
        // `'a`. `new` found `N` rows there and `n_blocks` blocks of each from `codes` on; `at` found
        // `i` and `b` among them.
        unsafe { &*self.codes.add(self.at(i, b) * BLOCK).cast() }
    }

    /// Scale of block `b` of row `i`.
    #[inline]
    pub(crate) fn scale(&self, i: usize, b: usize) -> f32 {
        // SAFETY: as in `codes`, with one scale for each block.
        unsafe { *self.scales.add(self.at(i, b)) }
    }

    /// Half-block sums of the blocks of row `i`.
    #[inline]
    pub(crate) fn row_sums(&self, i: usize) -> &'a [[i16; 2]] {
        assert!(i < N, "row {i}");
        // SAFETY: as in `codes`, with one pair of sums for each block; `new` found `n_blocks` of them from `sums` on.
        unsafe { std::slice::from_raw_parts(self.sums.add(i * self.stride), self.n_blocks) }
    }

    /// Half-block sums of block `b` of row `i`.
    #[inline]
    pub(crate) fn sums(&self, i: usize, b: usize) -> [i16; 2] {
        // SAFETY: as in `codes`, with one pair of sums for each block.
        unsafe { *self.sums.add(self.at(i, b)) }
    }
}
