//! Means with their errors, and percentiles.

use serde::Serialize;

/// A figure and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error; 0 for fewer than two samples.
    pub error: f64,
}

impl Estimate {
    /// Both times `factor`.
    pub fn times(self, factor: f64) -> Self {
        Self {
            value: factor * self.value,
            error: factor * self.error,
        }
    }
}

/// The mean of `samples`, 0 for none, and its standard error
/// `sqrt(sum (x - mean)^2 / n / (n - 1))`.
pub(super) fn mean(samples: &[f64]) -> Estimate {
    let n = samples.len() as f64;
    let value = if samples.is_empty() {
        0.0
    } else {
        samples.iter().sum::<f64>() / n
    };
    let mean = Estimate { value, error: 0.0 };
    let error = covariance(samples, mean, samples, mean).sqrt();
    Estimate { value, error }
}

/// The covariance of the means of two sets of samples that belong together, whose means are given:
/// `sum (a - mean a) (b - mean b) / n / (n - 1)`; 0 for fewer than two.
pub(super) fn covariance(a: &[f64], mean_a: Estimate, b: &[f64], mean_b: Estimate) -> f64 {
    if a.len() < 2 {
        return 0.0;
    }
    let n = a.len() as f64;
    let products = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - mean_a.value) * (b - mean_b.value));
    products.sum::<f64>() / n / (n - 1.0)
}

/// Values below which given shares of the samples lie.
///
/// Between two samples the value is interpolated: share `s` of `n` sorted samples is at index
/// `s (n - 1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The largest sample.
    pub maximum: f64,
    /// 99.9 % lie below.
    pub p99_9: f64,
    /// 99 %.
    pub p99: f64,
    /// 95 %.
    pub p95: f64,
    /// 90 %.
    pub p90: f64,
    /// 75 %.
    pub p75: f64,
    /// Half of them.
    pub median: f64,
    /// 25 %.
    pub p25: f64,
    /// 10 %.
    pub p10: f64,
    /// 5 %.
    pub p5: f64,
    /// 1 %.
    pub p1: f64,
    /// 0.1 %.
    pub p0_1: f64,
    /// The least sample.
    pub minimum: f64,
}

impl Percentiles {
    /// Those of `samples`; all 0 for none.
    pub(super) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |percent| percentile(&samples, percent);
        Self {
            maximum: at(100.0),
            p99_9: at(99.9),
            p99: at(99.0),
            p95: at(95.0),
            p90: at(90.0),
            p75: at(75.0),
            median: at(50.0),
            p25: at(25.0),
            p10: at(10.0),
            p5: at(5.0),
            p1: at(1.0),
            p0_1: at(0.1),
            minimum: at(0.0),
        }
    }

    /// All with their names, from the largest down.
    pub(super) fn named(&self) -> [(&'static str, f64); 13] {
        [
            ("Maximum", self.maximum),
            ("99.9%", self.p99_9),
            ("99.0%", self.p99),
            ("95.0%", self.p95),
            ("90.0%", self.p90),
            ("75.0%", self.p75),
            ("Median", self.median),
            ("25.0%", self.p25),
            ("10.0%", self.p10),
            ("5.0%", self.p5),
            ("1.0%", self.p1),
            ("0.1%", self.p0_1),
            ("Minimum", self.minimum),
        ]
    }
}

fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = percent / 100.0 * last as f64;
    let below = (at as usize).min(last);
    let above = (below + 1).min(last);
    let part = at - below as f64;
    (1.0 - part) * sorted[below] + part * sorted[above]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_standard_error_of_its_samples() {
        assert_eq!(
            mean(&[]),
            Estimate {
                value: 0.0,
                error: 0.0
            }
        );
        assert_eq!(
            mean(&[7.0]),
            Estimate {
                value: 7.0,
                error: 0.0
            }
        );
        let got = mean(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(got.value, 3.0);
        assert!((got.error - (14.0f64 / 4.0 / 3.0).sqrt()).abs() < 1e-15);
        let (a, b) = ([1.0, 3.0], [5.0, 1.0]);
        assert_eq!(covariance(&a, mean(&a), &b, mean(&b)), -2.0);
    }

    #[test]
    fn percentiles_are_interpolated() {
        let p = Percentiles::of((0..=1000).rev().map(f64::from).collect());
        assert_eq!((p.minimum, p.median, p.maximum), (0.0, 500.0, 1000.0));
        for (got, want) in [
            (p.p99_9, 999.0),
            (p.p0_1, 1.0),
            (p.p25, 250.0),
            (p.p95, 950.0),
        ] {
            assert!((got - want).abs() < 1e-9, "{got} {want}");
        }
        let two = Percentiles::of(vec![1.0, 0.0]);
        assert!((two.p75 - 0.75).abs() < 1e-15);
        assert_eq!(Percentiles::of(vec![4.0]).p10, 4.0);
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
    }
}
