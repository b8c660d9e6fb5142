//! What is computed of the logits of one position.

use chaski_models::TokenId;

/// The natural logarithm of the sum of `exp(logit)`, in f64.
pub fn log_normalizer(logits: &[f32]) -> f64 {
    log_sum_exp(logits, top(logits).1)
}

/// The natural logarithm of `token`'s probability under `logits`, in f64.
///
/// # Panics
///
/// If the token is no index of the logits.
pub fn log_prob(logits: &[f32], token: TokenId) -> f64 {
    f64::from(logits[token.index()]) - log_normalizer(logits)
}

/// What one position says of a model beside its reference; natural logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Negative log-likelihood of the token that followed, under the model.
    pub nll: f64,
    /// The same under the reference.
    pub reference_nll: f64,
    /// Kullback-Leibler divergence of the model from the reference.
    pub kl_divergence: f64,
    /// Whether both find the same token likeliest; of equal logits the first counts.
    pub same_top: bool,
}

/// What is computed of a reference's logits of one position alone, `[vocab_size]`.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// The first largest logit.
    top: usize,
    /// `exp(logit - largest)` of each token.
    exps: Vec<f64>,
    sum: f64,
    /// The natural logarithm of the sum of `exp(logit)`.
    log_sum: f64,
}

impl Expected {
    /// `exps` is a vector whose memory is used again.
    pub(crate) fn new(reference: &[f32], mut exps: Vec<f64>) -> Self {
        let (top, max) = top(reference);
        let max = f64::from(max);
        exps.clear();
        exps.extend(reference.iter().map(|&x| libm::exp(f64::from(x) - max)));
        let sum: f64 = exps.iter().sum();
        let log_sum = max + libm::log(sum);
        Self {
            top,
            exps,
            sum,
            log_sum,
        }
    }

    /// The divergence from the reference of a model whose logits have the `log_sum`, as
    /// [`Position::score`] says it; `reference` is what `self` was made of.
    fn divergence(&self, reference: &[f32], model: &[f32], log_sum: f64) -> f64 {
        assert_eq!(reference.len(), model.len(), "vocabularies differ in size");
        let divergence: f64 = self
            .exps
            .iter()
            .zip(reference.iter().zip(model))
            .map(|(e, (&p, &q))| e * ((f64::from(p) - self.log_sum) - (f64::from(q) - log_sum)))
            .sum();
        divergence / self.sum
    }

    /// The vector that it was made with.
    pub(crate) fn into_exps(self) -> Vec<f64> {
        self.exps
    }

    /// The Kullback-Leibler divergence alone, the same bits as [`Position::kl_divergence`].
    ///
    /// # Panics
    ///
    /// If the two differ in length.
    pub(crate) fn kl_divergence(&self, reference: &[f32], model: &[f32]) -> f64 {
        self.divergence(reference, model, log_normalizer(model))
    }
}

impl Position {
    /// Scores the logits of both, `[vocab_size]`, and the token that followed.
    ///
    /// With `P = exp(reference - ln sum exp reference)` and `Q` likewise of the model, the divergence
    /// is `sum of P[i] (ln P[i] - ln Q[i])` over the vocabulary in order. No token is left out
    /// (llama-perplexity leaves out those with `ln P <= -16`). Equal logits give exactly 0; rounding
    /// can make a divergence of nearly equal ones negative, by about 1e-16.
    ///
    /// `exps` is scratch.
    ///
    /// # Panics
    ///
    /// If the two differ in length, or the token is no index of them.
    pub fn score(reference: &[f32], model: &[f32], next: TokenId, exps: &mut Vec<f64>) -> Self {
        let expected = Expected::new(reference, std::mem::take(exps));
        let (model_top, model_max) = top(model);
        let model_log_sum = log_sum_exp(model, model_max);
        let kl_divergence = expected.divergence(reference, model, model_log_sum);
        let scored = Self {
            nll: model_log_sum - f64::from(model[next.index()]),
            reference_nll: expected.log_sum - f64::from(reference[next.index()]),
            kl_divergence,
            same_top: expected.top == model_top,
        };
        *exps = expected.exps;
        scored
    }

    /// By how much the model finds the token that followed likelier than the reference does:
    /// a difference of probabilities.
    pub fn delta_p(&self) -> f64 {
        libm::exp(-self.nll) - libm::exp(-self.reference_nll)
    }
}

/// Index and value of the first largest logit.
fn top(logits: &[f32]) -> (usize, f32) {
    let first = (0, f32::NEG_INFINITY);
    let larger = |best: (usize, f32), x: (usize, f32)| if x.1 > best.1 { x } else { best };
    logits.iter().copied().enumerate().fold(first, larger)
}

fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - max)).sum();
    max + libm::log(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_by_hand() {
        // P = (3/4, 1/4), Q = (1/2, 1/2).
        let reference = [3f32.ln() + 5.0, 5.0];
        let got = Position::score(&reference, &[-7.0, -7.0], TokenId(1), &mut Vec::new());
        let want = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((got.kl_divergence - want).abs() < 1e-7, "{got:?}");
        assert!((got.nll - 2f64.ln()).abs() < 1e-12);
        assert!((got.reference_nll - 4f64.ln()).abs() < 1e-7);
        assert!((got.delta_p() - 0.25).abs() < 1e-7);
        // Of equal logits the first is the top, which is the reference's.
        assert!(got.same_top);
        let other = Position::score(&reference, &[-7.0, -6.9], TokenId(1), &mut Vec::new());
        assert!(!other.same_top);
    }

    #[test]
    fn equal_logits_have_no_divergence_at_all() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 20.0).collect();
        let got = Position::score(&logits, &logits, TokenId(3), &mut Vec::new());
        assert_eq!(
            (got.kl_divergence, got.delta_p(), got.same_top),
            (0.0, 0.0, true)
        );
        assert_eq!(got.nll, -log_prob(&logits, TokenId(3)));
    }

    #[test]
    fn a_divergence_alone_is_that_of_the_whole_score() {
        let logits = |seed: f32| -> Vec<f32> {
            let logit = |i: usize| (i as f32 * (0.37 + seed)).sin() * 9.0;
            (0..777).map(logit).collect()
        };
        let (reference, model) = (logits(0.0), logits(1e-4));
        let whole = Position::score(&reference, &model, TokenId(0), &mut Vec::new());
        let expected = Expected::new(&reference, vec![1.0; 9]);
        let alone = expected.kl_divergence(&reference, &model);
        assert!(alone > 1e-6 && alone == whole.kl_divergence, "{alone}");
    }
}
