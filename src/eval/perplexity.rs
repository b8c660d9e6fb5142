//! Perplexity of one model.

use std::{fmt, ops::ControlFlow};

use chaski_models::TokenId;
use serde::Serialize;

use super::{Chunks, EvalError, Reader, log_prob};

/// The running figures of a perplexity measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Perplexity {
    /// Scored positions.
    pub count: u64,
    /// Sum of the negative log-likelihoods, in nats.
    pub nll: f64,
    /// Sum of their squares.
    pub nll_squared: f64,
}

impl Perplexity {
    /// Counts one scored position: the logits `[vocab_size]` and the token that followed.
    ///
    /// # Panics
    ///
    /// If the token is no index of the logits.
    pub fn score(&mut self, logits: &[f32], next: TokenId) {
        let nll = -log_prob(logits, next);
        self.count += 1;
        self.nll += nll;
        self.nll_squared += nll * nll;
    }

    /// The perplexity, `exp` of the mean negative log-likelihood.
    pub fn value(&self) -> f64 {
        libm::exp(self.nll / self.count as f64)
    }

    /// The standard error of [`value`](Self::value), to first order; 0 for fewer than two positions.
    pub fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let n = self.count as f64;
        let mean = self.nll / n;
        let variance = (self.nll_squared / n - mean * mean).max(0.0);
        (variance / (n - 1.0)).sqrt() * self.value()
    }
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PPL = {:.4} +/- {:.5}", self.value(), self.error())
    }
}

/// Measures `chunks`.
///
/// `progress(chunks done, so far)` is called after each chunk and may stop.
///
/// # Errors
///
/// [`EvalError::Model`].
pub fn perplexity<R: Reader>(
    chunks: &Chunks<'_>,
    model: &mut R,
    mut progress: impl FnMut(usize, &Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, EvalError<R::Error>> {
    let scored = chunks.scored();
    let mut total = Perplexity::default();
    let mut input = Vec::with_capacity(chunks.chunk_len());
    for i in 0..chunks.n() {
        chunks.input(i, &mut input);
        model.clear();
        let mut score = |pos: usize, logits: &[f32]| {
            if scored.contains(&pos) {
                total.score(logits, chunks.next(i, pos));
            }
        };
        model
            .read(&input[..scored.end], scored.start, &mut score)
            .map_err(EvalError::Model)?;
        if progress(i + 1, &total).is_break() {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    struct Uniform {
        reads: Vec<usize>,
    }

    impl Reader for Uniform {
        type Error = Infallible;

        fn vocab_size(&self) -> usize {
            10
        }

        fn clear(&mut self) {
            self.reads.push(0);
        }

        fn read(
            &mut self,
            tokens: &[TokenId],
            first: usize,
            sink: &mut dyn FnMut(usize, &[f32]),
        ) -> Result<(), Infallible> {
            assert_eq!((tokens[0], first), (TokenId(9), 8));
            self.reads.push(tokens.len());
            (first..tokens.len()).for_each(|pos| sink(pos, &[0.5; 10]));
            Ok(())
        }
    }

    #[test]
    fn uniform_logits_give_the_vocabularys_size() {
        let tokens: Vec<TokenId> = (0..40).map(|i| TokenId(i % 10)).collect();
        let chunks = Chunks::new(&tokens, Some(TokenId(9)), 16, None).unwrap();
        let mut model = Uniform { reads: Vec::new() };
        let go_on = |_: usize, _: &Perplexity| ControlFlow::Continue(());
        let ppl = perplexity(&chunks, &mut model, go_on).unwrap();
        // Positions 8..15 of two chunks are scored, the last has no successor.
        assert_eq!(ppl.count, 14);
        assert_eq!(model.reads, [0, 15, 0, 15]);
        assert!(
            (ppl.value() - 10.0).abs() < 1e-12 && ppl.error() < 1e-6,
            "{ppl}"
        );
        let stopped = perplexity(&chunks, &mut model, |_, _| ControlFlow::Break(())).unwrap();
        assert_eq!(stopped.count, 7);
    }

    #[test]
    fn the_error_is_the_standard_error_of_the_mean_times_the_value() {
        let mut p = Perplexity::default();
        for nll in [1.0_f64, 2.0, 3.0] {
            p.count += 1;
            p.nll += nll;
            p.nll_squared += nll * nll;
        }
        let want = (2.0_f64 / 3.0 / 2.0).sqrt() * 2.0_f64.exp();
        assert!((p.error() - want).abs() < 1e-12);
        assert!(p.to_string().starts_with("PPL = 7.3891 +/- "));
    }
}
