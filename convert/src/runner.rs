//! What a conversion needs of a machine that can run models.
//!
//! This crate never runs a model itself: there is one forward pass, and it is not here. Where a
//! conversion has to know what a model does (calibration, sensitivities), it is handed a runner.

use std::{error::Error, ops::ControlFlow, sync::Arc};

use chaski_models::forward::Observed;

/// Why a runner failed.
pub type RunnerError = Box<dyn Error + Send + Sync>;

/// Rows whose logits [`ModelRunner::divergences`] holds at a time: so many of the reference, and so many of a
/// variant. Memory is reckoned with them.
pub const LOGIT_ROWS: usize = 32;

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
    ///   the order of the walk, text by text; of a text that fails what was seen of it.
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

    /// As [`observe`](Self::observe) without anybody who looks on, and without logits.
    ///
    /// # Errors
    ///
    /// The file cannot be run.
    fn run(&mut self, file: Vec<u8>, texts: &[usize]) -> Result<Vec<f32>, RunnerError>;

    /// Compares the logits that heads compute of hidden states.
    ///
    /// * `heads`: whole containers, of one vocabulary; of each only the last norm and the output matrix
    ///   are used. At least one.
    /// * `reference`: hidden states, `[n, dim]`, of which the first head makes the logits that all others
    ///   are compared with.
    /// * `variants`: of each the number of its head and its hidden states, `[n, dim]`.
    /// * `progress(done)`: is told how many rows of variants are done, and may stop.
    ///
    /// Returns of each variant the Kullback-Leibler divergence from the reference, in nats, the mean over
    /// the rows, summed in their order; `None` if `progress` stopped. No more logits are held at a time
    /// than those of [`LOGIT_ROWS`] rows of the reference and of one variant.
    ///
    /// # Errors
    ///
    /// A head cannot be run, or logits are not finite.
    fn divergences(
        &mut self,
        heads: Vec<Vec<u8>>,
        reference: &[f32],
        variants: &[(usize, &[f32])],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f64>>, RunnerError>;

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
