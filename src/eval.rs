//! Perplexity by llama-perplexity's method.
//!
//! The text is tokenised once, as raw text with the tokenizer's own beginning-of-text token, and cut
//! into chunks of `chunk` tokens; a rest is dropped. Each chunk is read from an empty context, its
//! first token replaced by the beginning-of-text token if the tokenizer has one. From position
//! `chunk / 2` on, each position but the last is scored on the token that follows it, in f64.

use std::{error::Error, fmt, ops::ControlFlow};

use chaski_models::TokenId;
use serde::Serialize;

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

/// The natural logarithm of the sum of `exp(logit)`, in f64.
pub fn log_normalizer(logits: &[f32]) -> f64 {
    let max = logits
        .iter()
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - max)).sum();
    max + libm::log(sum)
}

/// The natural logarithm of `token`'s probability under `logits`, in f64.
///
/// # Panics
///
/// If the token is no index of the logits.
pub fn log_prob(logits: &[f32], token: TokenId) -> f64 {
    f64::from(logits[token.index()]) - log_normalizer(logits)
}

/// Why a text cannot be measured.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvalError<E> {
    /// The text has fewer tokens than two chunks need, or than one.
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// A chunk must have at least 4 tokens.
    Chunk {
        /// What was asked for.
        chunk: usize,
    },
    /// The model failed.
    Model(E),
}

impl<E> fmt::Display for EvalError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { tokens, needed } => {
                write!(
                    f,
                    "the text has {tokens} tokens, at least {needed} are needed for a chunk"
                )
            }
            Self::Chunk { chunk } => write!(f, "a chunk of {chunk} tokens: at least 4 are needed"),
            Self::Model(_) => f.write_str("the model failed on a chunk"),
        }
    }
}

impl<E: Error + 'static> Error for EvalError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Model(e) => Some(e),
            _ => None,
        }
    }
}

/// Measures `tokens` in chunks.
///
/// * `forward(chunk, first, sink)` runs a chunk from an empty context and hands the logits of every
///   position from `first` on to `sink`, in order.
/// * `progress(chunks done, chunks, so far)` is called after each chunk and may stop.
///
/// # Errors
///
/// [`EvalError`].
pub fn perplexity<E>(
    tokens: &[TokenId],
    bos: Option<TokenId>,
    chunk: usize,
    max_chunks: Option<usize>,
    mut forward: impl FnMut(&[TokenId], usize, &mut dyn FnMut(usize, &[f32])) -> Result<(), E>,
    mut progress: impl FnMut(usize, usize, &Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, EvalError<E>> {
    if chunk < 4 {
        return Err(EvalError::Chunk { chunk });
    }
    let n_chunks = (tokens.len() / chunk).min(max_chunks.unwrap_or(usize::MAX));
    if n_chunks == 0 {
        return Err(EvalError::TooShort {
            tokens: tokens.len(),
            needed: chunk,
        });
    }
    let first = chunk / 2;
    let mut total = Perplexity::default();
    let mut input = Vec::with_capacity(chunk);
    for (i, piece) in tokens.chunks_exact(chunk).take(n_chunks).enumerate() {
        input.clear();
        input.extend_from_slice(piece);
        if let Some(bos) = bos {
            input[0] = bos;
        }
        forward(&input, first, &mut |pos, logits| {
            if pos + 1 < chunk {
                total.score(logits, piece[pos + 1]);
            }
        })
        .map_err(EvalError::Model)?;
        if progress(i + 1, n_chunks, &total).is_break() {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn uniform_logits_give_the_vocabularys_size() {
        let tokens: Vec<TokenId> = (0..40).map(|i| TokenId(i % 10)).collect();
        let ppl = perplexity::<Infallible>(
            &tokens,
            Some(TokenId(9)),
            16,
            None,
            |chunk, first, sink| {
                assert_eq!((chunk.len(), chunk[0], first), (16, TokenId(9), 8));
                (first..16).for_each(|pos| sink(pos, &[0.5; 10]));
                Ok(())
            },
            |_, of, _| {
                assert_eq!(of, 2);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        // Positions 8..15 of two chunks are scored, the last has no successor.
        assert_eq!(ppl.count, 14);
        assert!(
            (ppl.value() - 10.0).abs() < 1e-12 && ppl.error() < 1e-6,
            "{ppl}"
        );
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

    #[test]
    fn short_texts_and_chunks_are_errors_with_numbers() {
        let run = |n: usize, chunk| {
            perplexity::<Infallible>(
                &vec![TokenId(0); n],
                None,
                chunk,
                None,
                |_, _, _| Ok(()),
                |_, _, _| ControlFlow::Continue(()),
            )
            .unwrap_err()
            .to_string()
        };
        assert!(run(10, 16).contains("10 tokens, at least 16"));
        assert!(run(10, 3).contains("3 tokens"));
    }
}
