//! Activations as the matrix kernels read them.

use std::ops::Range;

use crate::BLOCK;

/// Owned activations of up to `max_rows` rows of `n_blocks` blocks of 32; see [`ActRows`].
#[derive(Clone, Debug)]
pub struct Acts {
    n_blocks: usize,
    floats: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<[i16; 2]>,
}

/// Activations of `n_rows` rows, in both forms: as floats for float weights, and quantised to 8 bits
/// for quantised weights.
///
/// * `floats`: `[n_rows, n_blocks * 32]`; columns past the vector's end are zero.
/// * `codes`: `[n_rows, n_blocks * 32]`, in `-127..=127`.
/// * `scales`: `[n_rows, n_blocks]`; an activation is `code * scale`.
/// * `sums`: `[n_rows, n_blocks]`; the sums of a block's codes `0..16` and `16..32`.
///
/// [`scalar::quantize_block`](crate::scalar::quantize_block) defines codes, scales and sums.
#[derive(Clone, Copy, Debug)]
pub struct ActRows<'a> {
    n_rows: usize,
    n_blocks: usize,
    floats: &'a [f32],
    codes: &'a [i8],
    scales: &'a [f32],
    sums: &'a [[i16; 2]],
}

impl Acts {
    /// Zeros.
    pub fn new(max_rows: usize, n_blocks: usize) -> Self {
        let n = max_rows * n_blocks;
        Self {
            n_blocks,
            floats: vec![0.0; n * BLOCK],
            codes: vec![0; n * BLOCK],
            scales: vec![0.0; n],
            sums: vec![[0; 2]; n],
        }
    }

    /// Bytes that `new(max_rows, n_blocks)` allocates.
    pub const fn bytes(max_rows: usize, n_blocks: usize) -> usize {
        max_rows * n_blocks * (BLOCK * 5 + 8)
    }

    /// Makes the rows `n_blocks` blocks long, within what was allocated; their content is undefined.
    ///
    /// # Panics
    ///
    /// If not even one such row was allocated.
    pub fn set_blocks(&mut self, n_blocks: usize) {
        assert!(
            n_blocks <= self.scales.len(),
            "{n_blocks} blocks of {}",
            self.scales.len()
        );
        self.n_blocks = n_blocks;
    }

    /// The float form of row `row`, all `n_blocks * 32` columns, to be filled in.
    pub fn floats_mut(&mut self, row: usize) -> &mut [f32] {
        let k = self.n_blocks * BLOCK;
        &mut self.floats[row * k..(row + 1) * k]
    }

    /// Row `row`: its floats, and where its codes, scales and sums go.
    pub fn row_mut(&mut self, row: usize) -> ActRowMut<'_> {
        let (n, k) = (self.n_blocks, self.n_blocks * BLOCK);
        ActRowMut {
            floats: &self.floats[row * k..(row + 1) * k],
            codes: &mut self.codes[row * k..(row + 1) * k],
            scales: &mut self.scales[row * n..(row + 1) * n],
            sums: &mut self.sums[row * n..(row + 1) * n],
        }
    }

    /// The first `n_rows` rows.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn rows(&self, n_rows: usize) -> ActRows<'_> {
        let (n, k) = (n_rows * self.n_blocks, n_rows * self.n_blocks * BLOCK);
        ActRows::new(
            n_rows,
            self.n_blocks,
            &self.floats[..k],
            &self.codes[..k],
            &self.scales[..n],
            &self.sums[..n],
        )
    }
}

/// One row of [`Acts`], borrowed for quantising.
#[derive(Debug)]
pub struct ActRowMut<'a> {
    /// The activations, `[n_blocks * 32]`.
    pub floats: &'a [f32],
    /// `[n_blocks * 32]`.
    pub codes: &'a mut [i8],
    /// `[n_blocks]`.
    pub scales: &'a mut [f32],
    /// `[n_blocks]`.
    pub sums: &'a mut [[i16; 2]],
}

impl<'a> ActRows<'a> {
    /// Borrows all parts; see the type for their shapes.
    ///
    /// # Panics
    ///
    /// If a part has the wrong length.
    pub fn new(
        n_rows: usize,
        n_blocks: usize,
        floats: &'a [f32],
        codes: &'a [i8],
        scales: &'a [f32],
        sums: &'a [[i16; 2]],
    ) -> Self {
        let (n, k) = (n_rows * n_blocks, n_rows * n_blocks * BLOCK);
        assert_eq!(floats.len(), k, "float activations");
        assert_eq!(codes.len(), k, "activation codes");
        assert_eq!(scales.len(), n, "activation scales");
        assert_eq!(sums.len(), n, "activation sums");
        Self {
            n_rows,
            n_blocks,
            floats,
            codes,
            scales,
            sums,
        }
    }

    /// Number of rows.
    pub const fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Blocks of 32 of each row.
    pub const fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Some of the rows.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let n = rows.start * self.n_blocks..rows.end * self.n_blocks;
        let k = n.start * BLOCK..n.end * BLOCK;
        Self::new(
            rows.len(),
            self.n_blocks,
            &self.floats[k.clone()],
            &self.codes[k],
            &self.scales[n.clone()],
            &self.sums[n],
        )
    }

    /// Codes, scales and sums of all rows.
    pub const fn quantized(&self) -> (&'a [i8], &'a [f32], &'a [[i16; 2]]) {
        (self.codes, self.scales, self.sums)
    }

    /// Floats of row `row`, `[n_blocks * 32]`.
    pub fn floats(&self, row: usize) -> &'a [f32] {
        let k = self.n_blocks * BLOCK;
        &self.floats[row * k..(row + 1) * k]
    }

    /// Codes of row `row`, `[n_blocks * 32]`.
    pub fn codes(&self, row: usize) -> &'a [i8] {
        let k = self.n_blocks * BLOCK;
        &self.codes[row * k..(row + 1) * k]
    }

    /// Scales of row `row`, `[n_blocks]`.
    pub fn scales(&self, row: usize) -> &'a [f32] {
        &self.scales[row * self.n_blocks..(row + 1) * self.n_blocks]
    }

    /// Half-block sums of row `row`, `[n_blocks]`.
    pub fn sums(&self, row: usize) -> &'a [[i16; 2]] {
        &self.sums[row * self.n_blocks..(row + 1) * self.n_blocks]
    }
}
