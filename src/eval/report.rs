//! The figures of a comparison, in the blocks that llama-perplexity prints.

use std::fmt;

use serde::Serialize;

use super::{
    Estimate, Percentiles, Position,
    statistics::{covariance, mean},
};

/// How far a model is from its reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Scored positions.
    pub positions: usize,
    /// How likely the text is to both.
    pub perplexity: PerplexityStatistics,
    /// How far their distributions are from each other.
    pub kl_divergence: KlDivergence,
    /// How far their probabilities of the token that followed are from each other.
    pub token_probability: TokenProbability,
}

/// How likely a text is to a model and to its reference. The errors of what is made of both take
/// into account that both were measured on the same text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PerplexityStatistics {
    /// The model's perplexity.
    pub model: Estimate,
    /// The reference's.
    pub reference: Estimate,
    /// Correlation of the two negative log-likelihoods over the positions, at most 1; 1 where one of
    /// them is the same at all positions.
    pub correlation: f64,
    /// `ln(model / reference)`.
    pub log_ratio: Estimate,
    /// `model / reference`.
    pub ratio: Estimate,
    /// `model - reference`.
    pub difference: Estimate,
}

/// Kullback-Leibler divergences of the model from the reference, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KlDivergence {
    /// Over all positions.
    pub mean: Estimate,
    /// Of the positions.
    #[serde(flatten)]
    pub percentiles: Percentiles,
}

/// Differences of the probabilities that the model and the reference give to the token that
/// followed; 0.01 is a percentage point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TokenProbability {
    /// Mean difference: below 0, the model is worse.
    pub mean_delta: Estimate,
    /// Root of the mean square difference.
    pub rms_delta: Estimate,
    /// Share of the positions at which both find the same token likeliest.
    pub same_top: Estimate,
    /// The differences.
    #[serde(flatten)]
    pub percentiles: Percentiles,
}

impl Report {
    /// The figures of some positions.
    pub fn new(positions: &[Position]) -> Self {
        let all = |of: fn(&Position) -> f64| positions.iter().map(of).collect::<Vec<f64>>();
        let divergences = all(|p| p.kl_divergence);
        let deltas = all(Position::delta_p);
        Self {
            positions: positions.len(),
            perplexity: PerplexityStatistics::new(&all(|p| p.nll), &all(|p| p.reference_nll)),
            kl_divergence: KlDivergence {
                mean: mean(&divergences),
                percentiles: Percentiles::of(divergences),
            },
            token_probability: TokenProbability {
                mean_delta: mean(&deltas),
                rms_delta: root_mean_square(&deltas),
                same_top: share(
                    positions.iter().filter(|p| p.same_top).count(),
                    positions.len(),
                ),
                percentiles: Percentiles::of(deltas),
            },
        }
    }
}

impl PerplexityStatistics {
    fn new(nll: &[f64], reference_nll: &[f64]) -> Self {
        let (log, reference_log) = (mean(nll), mean(reference_nll));
        let covariance = covariance(nll, log, reference_nll, reference_log);
        let deviations = log.error * reference_log.error;
        let exp = |log: Estimate| {
            let value = libm::exp(log.value);
            Estimate {
                value,
                error: value * log.error,
            }
        };
        // The variance of a difference; rounding must not make it negative.
        let spread =
            |a: f64, b: f64, covariance: f64| (a * a + b * b - 2.0 * covariance).max(0.0).sqrt();
        let (model, reference) = (exp(log), exp(reference_log));
        let log_ratio = Estimate {
            value: log.value - reference_log.value,
            error: spread(log.error, reference_log.error, covariance),
        };
        Self {
            model,
            reference,
            correlation: if deviations > 0.0 {
                covariance / deviations
            } else {
                1.0
            },
            log_ratio,
            ratio: exp(log_ratio),
            difference: Estimate {
                value: model.value - reference.value,
                error: spread(
                    model.error,
                    reference.error,
                    model.value * reference.value * covariance,
                ),
            },
        }
    }
}

/// The root of the mean square, with its error to first order.
fn root_mean_square(samples: &[f64]) -> Estimate {
    let squares: Vec<f64> = samples.iter().map(|x| x * x).collect();
    let square = mean(&squares);
    let value = square.value.sqrt();
    let error = if value > 0.0 {
        0.5 / value * square.error
    } else {
        0.0
    };
    Estimate { value, error }
}

/// A share with the error of a binomial distribution.
fn share(part: usize, of: usize) -> Estimate {
    let value = part as f64 / of.max(1) as f64;
    let error = match of {
        0 | 1 => 0.0,
        _ => (value * (1.0 - value) / (of - 1) as f64).sqrt(),
    };
    Estimate { value, error }
}

impl fmt::Display for Report {
    /// The three blocks, named and rounded as llama-perplexity's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.perplexity;
        writeln!(f, "====== Perplexity statistics ======")?;
        let mut line = |name: &str, e: Estimate| {
            writeln!(f, "{name:<30}: {:>10.6} ± {:>10.6}", e.value, e.error)
        };
        line("Mean PPL(Q)", p.model)?;
        line("Mean PPL(base)", p.reference)?;
        line("Mean ln(PPL(Q)/PPL(base))", p.log_ratio)?;
        line("Mean PPL(Q)/PPL(base)", p.ratio)?;
        line("Mean PPL(Q)-PPL(base)", p.difference)?;
        let correlation = 100.0 * p.correlation;
        writeln!(f, "Cor(ln(PPL(Q)), ln(PPL(base))): {correlation:>6.2}%")?;

        writeln!(f, "\n====== KL divergence statistics ======")?;
        let k = &self.kl_divergence;
        writeln!(
            f,
            "{:<7} KLD: {:>10.6} ± {:>10.6}",
            "Mean", k.mean.value, k.mean.error
        )?;
        for (name, value) in k.percentiles.named() {
            writeln!(f, "{name:<7} KLD: {value:>10.6}")?;
        }

        writeln!(f, "\n====== Token probability statistics ======")?;
        let t = &self.token_probability;
        let percent = |e: Estimate| {
            let Estimate { value, error } = e.times(100.0);
            format!("{value:>7.3} ± {error:>5.3} %")
        };
        writeln!(f, "{:<7} Δp: {}", "Mean", percent(t.mean_delta))?;
        for (name, value) in t.percentiles.named() {
            writeln!(f, "{name:<7} Δp: {:>7.3}%", 100.0 * value)?;
        }
        writeln!(f, "{:<7} Δp: {}", "RMS", percent(t.rms_delta))?;
        write!(f, "Same top p: {}", percent(t.same_top))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(nll: f64, reference_nll: f64, kl_divergence: f64, same_top: bool) -> Position {
        Position {
            nll,
            reference_nll,
            kl_divergence,
            same_top,
        }
    }

    #[test]
    fn four_positions_by_hand() {
        let positions = [
            position(1.0, 1.0, 0.1, true),
            position(2.0, 1.0, 0.2, true),
            position(3.0, 3.0, 0.3, true),
            position(4.0, 3.0, 0.6, false),
        ];
        let r = Report::new(&positions);
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
        near(r.perplexity.model.value, 2.5f64.exp());
        near(r.perplexity.reference.value, 2f64.exp());
        // Deviations -1.5 -0.5 0.5 1.5 and -1 -1 1 1.
        let (var, reference_var, cov) = (5.0 / 12.0, 4.0 / 12.0, 4.0 / 12.0);
        near(r.perplexity.model.error, 2.5f64.exp() * f64::sqrt(var));
        near(
            r.perplexity.correlation,
            cov / f64::sqrt(var * reference_var),
        );
        near(r.perplexity.log_ratio.value, 0.5);
        let spread = f64::sqrt(var + reference_var - 2.0 * cov);
        near(r.perplexity.log_ratio.error, spread);
        near(r.perplexity.ratio.error, 0.5f64.exp() * spread);
        near(r.perplexity.difference.value, 2.5f64.exp() - 2f64.exp());
        near(r.kl_divergence.mean.value, 0.3);
        near(r.kl_divergence.percentiles.median, 0.25);
        near(r.token_probability.same_top.value, 0.75);
        near(
            r.token_probability.same_top.error,
            f64::sqrt(0.75 * 0.25 / 3.0),
        );
        let d = [(-2f64).exp() - (-1f64).exp(), (-4f64).exp() - (-3f64).exp()];
        near(r.token_probability.mean_delta.value, (d[0] + d[1]) / 4.0);
        near(
            r.token_probability.rms_delta.value,
            ((d[0] * d[0] + d[1] * d[1]) / 4.0).sqrt(),
        );
        let text = r.to_string();
        assert!(
            text.contains("Mean    KLD:   0.300000 ±   0.108012\n"),
            "{text}"
        );
        assert!(text.ends_with("Same top p:  75.000 ± 25.000 %"), "{text}");
    }

    #[test]
    fn no_position_and_one_are_no_numbers_out_of_range() {
        for positions in [&[][..], &[position(1.0, 1.0, 0.0, true)]] {
            let r = serde_json::to_value(Report::new(positions)).unwrap();
            assert!(!r.to_string().contains("null"), "{r}");
        }
    }
}
