//! What can go wrong, and how far the result is off.

use std::{error::Error, fmt};

use crate::QuantType;

/// Why rows cannot be quantised. Rows and columns count from the tile's first.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A weight is infinite or not a number.
    NotFinite {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// A weight would become infinite in a float type.
    OutOfRange {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The weight.
        value: f32,
        /// The type.
        qtype: QuantType,
    },
    /// The importance of a column is negative, infinite or not a number.
    Importance {
        /// The column.
        col: usize,
        /// Its importance.
        value: f32,
    },
}

impl QuantizeError {
    /// Names the first weight of `weights` that is not finite.
    pub(super) fn not_finite(row: usize, weights: &[f32]) -> Self {
        let col = weights.iter().position(|x| !x.is_finite()).unwrap_or(0);
        Self::NotFinite {
            row,
            col,
            value: weights[col],
        }
    }
}

impl fmt::Display for QuantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { row, col, value } => {
                write!(
                    f,
                    "weight at row {row}, column {col} is {value}, expected a finite number"
                )
            }
            Self::OutOfRange {
                row,
                col,
                value,
                qtype,
            } => {
                write!(
                    f,
                    "weight at row {row}, column {col} is {value:e}, beyond the range of {qtype}: \
                     choose bf16, f32 or a quantised type"
                )
            }
            Self::Importance { col, value } => {
                write!(
                    f,
                    "importance of column {col} is {value}, expected a finite number of at least 0"
                )
            }
        }
    }
}

impl Error for QuantizeError {}

/// How far quantised weights are from their source. Sums run over rows, columns of a row first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TileStats {
    /// Number of weights, padding not counted.
    pub n: u64,
    /// Sum of the squared weights.
    pub sum_sq: f64,
    /// Sum of the squared errors.
    pub err_sq: f64,
    /// Largest magnitude of an error.
    pub max_abs_err: f32,
}

impl TileStats {
    /// Adds the statistics of further weights. Sums of floats depend on their order: merge tiles in the
    /// order of the file.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.sum_sq += other.sum_sq;
        self.err_sq += other.err_sq;
        self.max_abs_err = self.max_abs_err.max(other.max_abs_err);
    }

    /// Signal to noise in decibels, `10 log10(sum_sq / err_sq)`; infinite without error.
    pub fn sqnr_db(&self) -> f64 {
        if self.err_sq == 0.0 {
            f64::INFINITY
        } else {
            10.0 * (self.sum_sq / self.err_sq).log10()
        }
    }

    /// Root mean square of the errors, `sqrt(err_sq / n)`; 0 for no weights.
    pub fn rmse(&self) -> f64 {
        if self.n == 0 {
            0.0
        } else {
            (self.err_sq / self.n as f64).sqrt()
        }
    }

    pub(super) fn add(&mut self, weight: f32, stored: f32) {
        let err = f64::from(weight) - f64::from(stored);
        self.n += 1;
        self.sum_sq += f64::from(weight) * f64::from(weight);
        self.err_sq += err * err;
        self.max_abs_err = self.max_abs_err.max(err.abs() as f32);
    }
}
