//! Error feedback: a column makes up for what the columns before it lost.
//!
//! Let `H` be the second moments of a matrix's input, `H_ij = E[x_i x_j]`. A row of weights `w` stored as
//! `v` then errs at its output by `e H e^T` on average, `e = w - v`. With `H = (I + U) D (I + U)^T`, `U`
//! strictly upper triangular and `D` diagonal, that is
//!
//! ```text
//! e H e^T = sum over k of D_k (w_k + f_k - v_k)^2,     f_k = sum over j < k of e_j U_jk
//! ```
//!
//! so going through the columns in order and storing the value nearest to `w_k + f_k` makes each term
//! as small as the grid allows. (GPTQ, which works on the inverse of `H`, makes the same choices;
//! this form is LDLQ, Chee et al. 2023, arXiv:2307.13304.) The scale of a group is searched on
//! `w + f` as the columns before the group leave it, weighted by `D`.

use super::{
    Lanes, QuantizeError, TileStats,
    grid::Grid,
    normalized,
    pack::{decoded, nearest, pack_values},
    panel::Panel,
    scales::{Scales, fit_integer, fit_tile},
};
use crate::{BLOCK, TILE_ROWS};

/// The factors `U` and `D` of the second moments of a matrix's input.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// `D`, `[cols]`.
    weights: Vec<f32>,
    /// The same as the importance of a search.
    importance: Vec<f32>,
    /// For each block of columns, for each column `j` from the block's first on: `U_kj` of the block's
    /// 32 columns `k`; 0 where `k >= j`.
    coupling: Vec<f32>,
}

/// Where the coupling of block `b` starts.
fn panel_start(cols: usize, b: usize) -> usize {
    // The blocks before it have cols, cols - 32, ... columns.
    let blocks = b * cols - BLOCK * (b * b.saturating_sub(1) / 2);
    blocks * BLOCK
}

impl Feedback {
    /// From a factorised matrix.
    ///
    /// * `factors`: `[cols, cols]`, row by row: `D` on the diagonal, `U` right of it. What is left of
    ///   it is not read.
    ///
    /// # Errors
    ///
    /// A `D` that is negative or not finite.
    ///
    /// # Panics
    ///
    /// If `factors` has another length, or `cols` is 0.
    pub fn new(cols: usize, factors: &[f64]) -> Result<Self, QuantizeError> {
        assert!(cols > 0, "feedback of no columns");
        assert_eq!(factors.len(), cols * cols, "factors");
        let weights: Vec<f32> = (0..cols).map(|k| factors[k * cols + k] as f32).collect();
        let mut importance = normalized(&weights, cols)?;
        if importance.is_empty() {
            importance = vec![1.0; cols];
        }
        let n_blocks = cols.div_ceil(BLOCK);
        let mut coupling =
            vec![0.0; panel_start(cols, n_blocks - 1) + BLOCK * (cols - (n_blocks - 1) * BLOCK)];
        for b in 0..n_blocks {
            let first = b * BLOCK;
            let panel = &mut coupling[panel_start(cols, b)..];
            for k in first..(first + BLOCK).min(cols) {
                for j in k + 1..cols {
                    panel[(j - first) * BLOCK + k - first] = factors[k * cols + j] as f32;
                }
            }
        }
        Ok(Self {
            weights,
            importance,
            coupling,
        })
    }

    /// Columns of the matrix that it is for.
    pub fn cols(&self) -> usize {
        self.weights.len()
    }

    /// Bytes that the feedback of so many columns takes.
    pub const fn bytes(cols: usize) -> u64 {
        let cols = cols as u64;
        4 * (cols * cols / 2 + 18 * cols)
    }

    /// The coupling of block `b`'s columns to the columns from its first on, `[columns][32]`.
    fn panel(&self, b: usize) -> &[[f32; BLOCK]] {
        let start = panel_start(self.cols(), b);
        let len = BLOCK * (self.cols() - b * BLOCK);
        self.coupling[start..start + len].as_chunks().0
    }
}

/// The row scale, relative to the best one of the weights as they are: what the columns make up for
/// each other can ask for a larger scale in the group that has the largest.
const SLACK: f32 = 1.06;

/// Columns whose sums are kept in registers together.
const STRIP: usize = 2;

/// Adds to each column of `sums` what the errors of a block's columns make of it: for each `j`,
/// `sums[j] += errors[k] * coupling[j][k]` over `k` in order.
#[inline(always)]
fn spread(errors: &[Lanes; BLOCK], coupling: &[[f32; BLOCK]], sums: &mut [Lanes]) {
    let strips = sums.as_chunks_mut::<STRIP>().0.iter_mut();
    for (sums, coupling) in strips.zip(coupling.as_chunks::<STRIP>().0) {
        let mut acc = *sums;
        for (k, e) in errors.iter().enumerate() {
            for s in 0..STRIP {
                let u = coupling[s][k];
                for l in 0..TILE_ROWS {
                    acc[s][l] += e[l] * u;
                }
            }
        }
        *sums = acc;
    }
    let rest = sums.len() / STRIP * STRIP;
    for (sum, coupling) in sums[rest..].iter_mut().zip(&coupling[rest..]) {
        for (e, u) in errors.iter().zip(coupling) {
            for l in 0..TILE_ROWS {
                sum[l] += e[l] * u;
            }
        }
    }
}

/// Quantises a tile whose bytes are zero before.
pub(super) fn quantize<G: Grid>(
    rows: &[&[f32]],
    feedback: &Feedback,
    out: &mut [u8],
) -> Result<(TileStats, f64), QuantizeError> {
    let panel = Panel::new(rows)?;
    let cols = panel.x.len();
    let importance = &feedback.importance[..];
    let row = fit_tile::<G, true>(&panel, importance)
        .row
        .map(|row| row * SLACK);
    let mut scales = Scales {
        row,
        v: Vec::with_capacity(cols.div_ceil(G::GROUP)),
        shift: Vec::with_capacity(cols.div_ceil(G::GROUP)),
    };
    let mut values = vec![[0.0; TILE_ROWS]; cols];
    let mut made_up = vec![[0.0_f32; TILE_ROWS]; cols];
    let mut loss = [0.0_f64; TILE_ROWS];
    for first in (0..cols).step_by(BLOCK) {
        let last = (first + BLOCK).min(cols);
        let coupling = feedback.panel(first / BLOCK);
        let mut errors = [[0.0; TILE_ROWS]; BLOCK];
        for start in (first..last).step_by(G::GROUP) {
            let end = (start + G::GROUP).min(last);
            // What the columns of this block before the group make of the group's columns.
            let now = |errors: &[Lanes; BLOCK], k: usize| {
                let mut t = panel.x[k];
                for (l, t) in t.iter_mut().enumerate() {
                    *t += made_up[k][l];
                }
                for (e, u) in errors[..k - first].iter().zip(&coupling[k - first]) {
                    for l in 0..TILE_ROWS {
                        t[l] += e[l] * u;
                    }
                }
                t
            };
            let mut group = [[0.0; TILE_ROWS]; BLOCK];
            for k in start..end {
                group[k - start] = now(&errors, k);
            }
            let group = &group[..end - start];
            let choice = fit_integer::<G>(group, &importance[start..end], &row);
            for k in start..end {
                let t = now(&errors, k);
                let c = nearest::<G>(&t, &row, &choice.v, &choice.shift);
                let stored = decoded(&c, &row, &choice.v, &choice.shift);
                let weight = f64::from(feedback.weights[k]);
                for l in 0..TILE_ROWS {
                    errors[k - first][l] = panel.x[k][l] - stored[l];
                    let off = f64::from(t[l]) - f64::from(stored[l]);
                    loss[l] += weight * (off * off);
                }
                values[k] = c;
            }
            scales.v.push(choice.v);
            scales.shift.push(choice.shift);
        }
        spread(&errors, &coupling[last - first..], &mut made_up[last..]);
    }
    let mut total = 0.0;
    for (loss, unit) in loss.iter().zip(panel.units()).take(panel.n_rows) {
        total += loss * (unit * unit);
    }
    Ok((pack_values::<G>(&panel, &scales, &values, out), total))
}
