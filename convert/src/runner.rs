//! What a conversion needs of a machine that can run models.
//!
//! This crate never runs a model itself: there is one forward pass, and it is not here. Where a
//! conversion has to know what a model does (calibration, sensitivities), it is handed a runner.

use std::{error::Error, sync::Arc};

use chaski_models::forward::Observed;

/// Why a runner failed.
pub type RunnerError = Box<dyn Error + Send + Sync>;

/// Runs models and sums their activations.
///
/// Results must not depend on the number of threads.
pub trait ModelRunner {
    /// Runs the model in `file`, a whole container, over texts, each from an empty context.
    ///
    /// * `texts`: their lengths. The tokens of all texts together are 0, 1, 2, ...: the file's
    ///   embeddings are rows that were made for this run.
    /// * `head`: whether the logits of all rows are computed, so that their input is seen; the logits
    ///   themselves are dropped.
    /// * `observer(text, rows)`: all rows of a text at each [`Site`](chaski_models::forward::Site), in
    ///   the order of the walk, text by text.
    ///
    /// Returns the hidden states behind the last layer, `[rows of all texts, dim]`.
    ///
    /// # Errors
    ///
    /// The file cannot be run.
    fn observe(
        &mut self,
        file: Vec<u8>,
        texts: &[usize],
        head: bool,
        observer: &mut dyn FnMut(usize, Observed<'_>),
    ) -> Result<Vec<f32>, RunnerError>;

    /// Sums products on the same machine.
    fn products(&self) -> Arc<dyn Products>;
}

/// Sums products of activations: what calibration computes most of.
pub trait Products: Send + Sync {
    /// Adds `scale` times the products of all columns of `rows` to `sum`.
    ///
    /// * `rows`: `[n, width]`.
    /// * `sum`: `[width, width]`, its rows `stride` apart; only its upper triangle, the diagonal
    ///   included, is of meaning.
    ///
    /// What is added to `sum[i, j]`, `i <= j`, is `scale * f64(p)` in one addition, where `p` starts
    /// from 0 and is `fma(rows[r, i], rows[r, j], p)` over the rows in order, in `f32`.
    fn add(&self, rows: &[f32], width: usize, scale: f64, sum: &mut [f64], stride: usize);
}
