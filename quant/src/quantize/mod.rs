//! `f32` rows to tiles.
//!
//! ```
//! use chaski_quant::{QuantType, TensorLayout, quantize::Quantizer};
//!
//! let row: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
//! let layout = TensorLayout::new(QuantType::Q4, 1, 64)?;
//! let mut tile = vec![0; layout.tile_bytes()];
//! let stats = Quantizer::new(QuantType::Q4).quantize_tile(&[&row], &mut tile)?;
//! assert!(stats.sqnr_db() > 20.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The search
//!
//! A quantised weight is `value(code) * v * row_scale`; a *group* is the weights of one row that share
//! the integer scale `v` (32, in `Q4H` 16). Sixteen rows are treated at once, one in each lane:
//!
//! ```text
//! rows          to [k][row], each row times the power of two that brings its maximum into 1..2
//! each group    trial scales (largest weight -> each target of the grid, both shifts), then finer
//!               steps about the best: nearest values c, best scale d = sum(x c) / sum(c^2), its error
//! row scale     of 16 candidates the one whose multiples come closest to all d
//! each group    integer scale v: the nearest to d and its neighbours, codes chosen anew for each
//! row scale     again, by least squares: sum(x c v) / sum((c v)^2)
//! codes         the nearest at the scales that the file holds
//! ```
//!
//! With an importance of the columns the sums are weighted by it. With [`Feedback`] the groups are
//! searched one after the other, each on its weights and what the columns before it lost.
//!
//! Every lane does the same elementwise operations and sums over `k` in order; there is no fused
//! operation and no library function whose last bit could differ. So equal rows give equal bytes on
//! every machine, wherever a row stands in its tile and whatever its neighbours are.
//!
//! # What is special
//!
//! * A row of zeros has row scale 0 and integer scales 0; its codes stand for the value 0. So do those
//!   of any group whose integer scale is 0.
//! * Row scales are finite, and 0 or *normal*: rows so small that theirs would be subnormal (largest
//!   weight below about 2^-114) get the smallest normal row scale and smaller integer scales, and
//!   below about 2^-126 become zero.
//! * No decoded weight is infinite: the row scale is at most `f32::MAX / (largest value * largest
//!   integer scale)`, which can clip rows with weights beyond 0.87 times `f32::MAX`.
//! * Weights 2^126 times smaller than the largest of their row count as zero, in the statistics too.
//! * Missing rows are zero bytes throughout: row scale, scale bytes and codes. Columns past the last
//!   one are zero code bits (activations there are zero, so nothing reads them as a value); if a whole
//!   half block of `Q4H` lies past it, its integer scale is 0 (the byte 0x80).
//! * Bytes after the last block are zero.

mod coarse;
mod error;
mod feedback;
mod float;
mod grid;
mod pack;
mod panel;
mod scales;
mod trial;

pub use error::{QuantizeError, TileStats};
pub use feedback::Feedback;

use grid::{Codebook, Eight, Grid, Linear};
use panel::Panel;

use crate::{QuantType, TILE_ROWS, TensorLayout};

/// A number for each row of a tile.
type Lanes = [f32; TILE_ROWS];

/// Turns rows of `f32` into tiles of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantizer {
    qtype: QuantType,
}

impl Quantizer {
    /// A quantiser to `qtype`.
    pub const fn new(qtype: QuantType) -> Self {
        Self { qtype }
    }

    /// The type that it writes.
    pub const fn qtype(&self) -> QuantType {
        self.qtype
    }

    /// Quantises 1 to 16 rows of equal length into a tile.
    ///
    /// * `rows`: `[n_rows, cols]`.
    /// * `out`: [`TensorLayout::tile_bytes`] bytes, all of them written.
    ///
    /// `F32` is exact; `F16` and `BF16` round to nearest even.
    ///
    /// # Errors
    ///
    /// A weight that is not finite, or that `F16` or `BF16` would round to infinity. `out` holds
    /// nothing of use then.
    ///
    /// # Panics
    ///
    /// If there are no rows, more than 16, rows of no or unequal length, or if `out` has another
    /// length than the tile.
    pub fn quantize_tile(
        &self,
        rows: &[&[f32]],
        out: &mut [u8],
    ) -> Result<TileStats, QuantizeError> {
        self.quantize_tile_weighted(rows, None, out)
    }

    /// As [`quantize_tile`](Self::quantize_tile), but the search minimises the sum of
    /// `importance[col] * error^2`. The statistics are not weighted.
    ///
    /// * `importance`: `[cols]`, as the mean square of the activation that the column is multiplied
    ///   with. Only ratios matter; below a millionth of the mean it counts as that much. All zero is
    ///   the same as `None`. Float types ignore it.
    ///
    /// # Errors
    ///
    /// Also an importance that is negative or not finite.
    ///
    /// # Panics
    ///
    /// Also if `importance` has another length than the rows.
    pub fn quantize_tile_weighted(
        &self,
        rows: &[&[f32]],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<TileStats, QuantizeError> {
        self.check_tile(rows, out);
        let cols = rows[0].len();
        let importance = importance.map(|i| normalized(i, cols)).transpose()?;
        let importance = importance.as_deref().filter(|i| !i.is_empty());

        out.fill(0);
        match self.qtype {
            QuantType::F32 | QuantType::F16 | QuantType::BF16 => {
                float::write_tile(self.qtype, rows, out)
            }
            QuantType::Q4 => quantize::<Codebook<32>>(rows, importance, out),
            QuantType::Q4H => quantize::<Codebook<16>>(rows, importance, out),
            QuantType::Q5 => quantize::<Linear<16>>(rows, importance, out),
            QuantType::Q6 => quantize::<Linear<32>>(rows, importance, out),
            QuantType::Q8 => quantize::<Linear<127>>(rows, importance, out),
            QuantType::Q3 => quantize::<Eight>(rows, importance, out),
        }
    }
}

impl Quantizer {
    /// As [`quantize_tile`](Self::quantize_tile), with error feedback: each column makes up for what
    /// the columns before it lost, as far as their activations go together; see [`Feedback`].
    ///
    /// Also returns the error of the tile's outputs that the feedback expects: the sum over its rows
    /// of `e H e^T`, with `e` the row's error and `H` the matrix that the feedback was made of. Float
    /// types ignore the feedback; theirs is 0.
    ///
    /// # Errors
    ///
    /// As [`quantize_tile`](Self::quantize_tile).
    ///
    /// # Panics
    ///
    /// Also if the rows have another length than the feedback.
    pub fn quantize_tile_with_feedback(
        &self,
        rows: &[&[f32]],
        feedback: &Feedback,
        out: &mut [u8],
    ) -> Result<(TileStats, f64), QuantizeError> {
        self.check_tile(rows, out);
        assert_eq!(rows[0].len(), feedback.cols(), "columns of the feedback");
        out.fill(0);
        match self.qtype {
            QuantType::F32 | QuantType::F16 | QuantType::BF16 => {
                Ok((float::write_tile(self.qtype, rows, out)?, 0.0))
            }
            QuantType::Q4 => feedback::quantize::<Codebook<32>>(rows, feedback, out),
            QuantType::Q4H => feedback::quantize::<Codebook<16>>(rows, feedback, out),
            QuantType::Q5 => feedback::quantize::<Linear<16>>(rows, feedback, out),
            QuantType::Q6 => feedback::quantize::<Linear<32>>(rows, feedback, out),
            QuantType::Q8 => feedback::quantize::<Linear<127>>(rows, feedback, out),
            QuantType::Q3 => feedback::quantize::<Eight>(rows, feedback, out),
        }
    }

    fn check_tile(&self, rows: &[&[f32]], out: &[u8]) {
        assert!(
            (1..=TILE_ROWS).contains(&rows.len()),
            "{} rows in a tile",
            rows.len()
        );
        let cols = rows[0].len();
        assert!(
            rows.iter().all(|r| r.len() == cols),
            "rows of unequal length"
        );
        let tile_bytes = match TensorLayout::new(self.qtype, rows.len(), cols) {
            Ok(layout) => layout.tile_bytes(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(out.len(), tile_bytes, "bytes of a tile");
    }
}

/// Importance with mean 1 and at least a millionth; empty if all are zero.
fn normalized(importance: &[f32], cols: usize) -> Result<Vec<f32>, QuantizeError> {
    assert_eq!(importance.len(), cols, "importance of columns");
    if let Some(col) = importance
        .iter()
        .position(|v| !(v.is_finite() && *v >= 0.0))
    {
        return Err(QuantizeError::Importance {
            col,
            value: importance[col],
        });
    }
    let mean = importance.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
    if mean == 0.0 {
        return Ok(Vec::new());
    }
    Ok(importance
        .iter()
        .map(|v| ((f64::from(*v) / mean) as f32).max(1e-6))
        .collect())
}

fn quantize<G: Grid>(
    rows: &[&[f32]],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<TileStats, QuantizeError> {
    let panel = Panel::new(rows)?;
    let scales = match importance {
        Some(importance) => scales::fit_tile::<G, true>(&panel, importance),
        None => scales::fit_tile::<G, false>(&panel, &[]),
    };
    Ok(pack::pack::<G>(&panel, &scales, out))
}
