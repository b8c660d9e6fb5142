//! A model beside its reference.

use std::{num::NonZeroUsize, ops::ControlFlow};

use chaski_models::TokenId;
use rayon::prelude::*;

use super::{Chunks, EvalError, Position, Reader, Report};

/// Positions whose logits are kept of both models at once.
const ROWS: usize = 32;

/// The scored positions so far.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    positions: Vec<Position>,
}

impl Comparison {
    /// The scored positions in order.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Their figures.
    pub fn report(&self) -> Report {
        Report::new(&self.positions)
    }
}

/// Logits of some positions, `[row, vocab_size]`.
struct Logits {
    vocab_size: usize,
    rows: Vec<f32>,
}

impl Logits {
    fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            rows: Vec::with_capacity(ROWS * vocab_size),
        }
    }

    /// Reads `tokens`, all of whose logits are kept.
    fn read<R: Reader>(&mut self, model: &mut R, tokens: &[TokenId]) -> Result<(), R::Error> {
        self.rows.clear();
        model.read(tokens, 0, &mut |_, logits| {
            self.rows.extend_from_slice(logits)
        })
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.vocab_size..][..self.vocab_size]
    }
}

/// Scores each of `models` beside `reference` on `chunks`.
///
/// All read a chunk up to where scoring begins, then in turn some positions each, whose logits are
/// compared at once: memory for 64 rows of logits is all that it takes beside the readers' own.
/// `threads` compare; the figures do not depend on their number.
///
/// `progress(chunks done, so far)` is called after each chunk and may stop; it is given a comparison
/// for each model, and so is the caller.
///
/// # Errors
///
/// [`EvalError`].
pub fn compare<R: Reader>(
    chunks: &Chunks<'_>,
    reference: &mut R,
    models: &mut [R],
    threads: NonZeroUsize,
    mut progress: impl FnMut(usize, &[Comparison]) -> ControlFlow<()>,
) -> Result<Vec<Comparison>, EvalError<R::Error>> {
    let vocab_size = reference.vocab_size();
    if let Some(other) = models.iter().find(|m| m.vocab_size() != vocab_size) {
        return Err(EvalError::Vocabulary {
            model: other.vocab_size(),
            reference: vocab_size,
        });
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|i| format!("chaski-eval-{i}"))
        .build()
        .map_err(EvalError::Threads)?;
    let scored = chunks.scored();
    let mut totals = vec![Comparison::default(); models.len()];
    let mut input = Vec::with_capacity(chunks.chunk_len());
    let (mut p, mut q) = (Logits::new(vocab_size), Logits::new(vocab_size));
    for i in 0..chunks.n() {
        chunks.input(i, &mut input);
        let before = &input[..scored.start];
        reference.clear();
        read_over(reference, before).map_err(EvalError::Reference)?;
        for model in &mut *models {
            model.clear();
            read_over(model, before).map_err(EvalError::Model)?;
        }
        for first in scored.clone().step_by(ROWS) {
            let positions = first..(first + ROWS).min(scored.end);
            let tokens = &input[positions.clone()];
            p.read(reference, tokens).map_err(EvalError::Reference)?;
            for (model, total) in models.iter_mut().zip(&mut totals) {
                q.read(model, tokens).map_err(EvalError::Model)?;
                let score = |exps: &mut Vec<f64>, pos: usize| {
                    let row = pos - first;
                    Position::score(p.row(row), q.row(row), chunks.next(i, pos), exps)
                };
                // A parallel iterator with an index gives its results in order.
                let found: Vec<Position> = pool.install(|| {
                    let positions = positions.clone().into_par_iter();
                    positions.map_init(Vec::new, score).collect()
                });
                total.positions.extend(found);
            }
        }
        if progress(i + 1, &totals).is_break() {
            break;
        }
    }
    Ok(totals)
}

/// Reads tokens whose logits nobody wants.
fn read_over<R: Reader>(model: &mut R, tokens: &[TokenId]) -> Result<(), R::Error> {
    model.read(tokens, tokens.len(), &mut |_, _| {})
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Logits that are a function of the position, the token and a seed.
    struct Fake {
        seed: u32,
        pos: usize,
        vocab_size: usize,
    }

    fn logit(seed: u32, pos: usize, token: TokenId, i: usize) -> f32 {
        let common = (pos * 7 + token.index() * 13 + i * i * 3) % 101;
        let own = seed as usize * ((pos + 5 * i) % 7);
        common as f32 / 20.0 + own as f32 / 10.0
    }

    impl Reader for Fake {
        type Error = Infallible;

        fn vocab_size(&self) -> usize {
            self.vocab_size
        }

        fn clear(&mut self) {
            self.pos = 0;
        }

        fn read(
            &mut self,
            tokens: &[TokenId],
            first: usize,
            sink: &mut dyn FnMut(usize, &[f32]),
        ) -> Result<(), Infallible> {
            for (i, &token) in tokens.iter().enumerate() {
                let row = (0..self.vocab_size).map(|v| logit(self.seed, self.pos, token, v));
                // The last one unasked, as a session does.
                if i >= first || i + 1 == tokens.len() {
                    sink(i, &row.collect::<Vec<_>>());
                }
                self.pos += 1;
            }
            Ok(())
        }
    }

    fn fake(seed: u32, vocab_size: usize) -> Fake {
        Fake {
            seed,
            pos: 0,
            vocab_size,
        }
    }

    /// The same by the textbook: probabilities of all tokens, then sums.
    fn textbook(tokens: &[TokenId], chunk: usize, seeds: [u32; 2]) -> [f64; 4] {
        let (mut kld, mut nll, mut reference_nll, mut same) = (0.0, 0.0, 0.0, 0.0);
        let mut n = 0.0;
        for piece in tokens.chunks_exact(chunk) {
            for pos in chunk / 2..chunk - 1 {
                let token = if pos == 0 { TokenId(5) } else { piece[pos] };
                let [p, q] = seeds.map(|seed| {
                    let exps: Vec<f64> = (0..11)
                        .map(|v| f64::from(logit(seed, pos, token, v)).exp())
                        .collect();
                    let sum: f64 = exps.iter().sum();
                    exps.into_iter().map(|e| e / sum).collect::<Vec<f64>>()
                });
                let best = |p: &[f64]| (0..11).rev().max_by(|&a, &b| p[a].total_cmp(&p[b]));
                kld += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
                let next = piece[pos + 1].index();
                reference_nll -= p[next].ln();
                nll -= q[next].ln();
                same += f64::from(u8::from(best(&p) == best(&q)));
                n += 1.0;
            }
        }
        [
            kld / n,
            (nll / n).exp(),
            (reference_nll / n).exp(),
            same / n,
        ]
    }

    #[test]
    fn a_comparison_is_the_textbooks_at_any_number_of_threads() {
        let tokens: Vec<TokenId> = (0..500u32).map(|i| TokenId(i * i % 11)).collect();
        let mut first: Option<Report> = None;
        for threads in [1, 2, 5] {
            // 100 tokens are two pieces, the second one shorter.
            let chunks = Chunks::new(&tokens, Some(TokenId(5)), 100, None).unwrap();
            let threads = NonZeroUsize::new(threads).unwrap();
            let mut done = Vec::new();
            let compared = compare(
                &chunks,
                &mut fake(1, 11),
                &mut [fake(2, 11), fake(1, 11)],
                threads,
                |n, c| {
                    done.push((n, c[0].positions().len()));
                    ControlFlow::Continue(())
                },
            );
            let compared = compared.unwrap();
            assert_eq!(compared[1].report().kl_divergence.mean.value, 0.0);
            let report = compared[0].report();
            assert_eq!(done, [(1, 49), (2, 98), (3, 147), (4, 196), (5, 245)]);
            let got = [
                report.kl_divergence.mean.value,
                report.perplexity.model.value,
                report.perplexity.reference.value,
                report.token_probability.same_top.value,
            ];
            for (got, want) in got.iter().zip(textbook(&tokens, 100, [1, 2])) {
                assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
            }
            assert_eq!(*first.get_or_insert(report), report);
        }
    }

    #[test]
    fn vocabularies_of_two_sizes_are_an_error() {
        let tokens = [TokenId(1); 8];
        let chunks = Chunks::new(&tokens, None, 8, None).unwrap();
        let (mut a, mut b) = (fake(1, 11), [fake(1, 12)]);
        let compared = compare(&chunks, &mut a, &mut b, NonZeroUsize::MIN, |_, _| {
            ControlFlow::Continue(())
        });
        let error = compared.unwrap_err().to_string();
        assert!(error.contains("12 tokens, its reference of 11"), "{error}");
    }
}
