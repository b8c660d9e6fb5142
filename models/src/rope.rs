//! Rotary position embedding: frequencies and the table of one position.
//!
//! The rotation itself is [`chaski_quant::scalar::rope`], half layout: elements `i` and
//! `i + head_dim / 2` are a pair. Everything here is f64 by the `libm` crate, whose results do not
//! depend on the platform, and is rounded once.

use std::f64::consts::TAU;

use crate::{Config, RopeScaling};

/// The frequencies of a model, in radians per position, scaling applied: `[head_dim / 2]`.
///
/// `f[i] = rope_theta ^ -(2 i / head_dim)`, then
/// * linear: `f / factor`;
/// * llama3, with `n = original_max_seq_len` and the wavelength `w = 2 pi / f`: `f / factor` where
///   `w > n / low_freq_factor`, `f` where `w < n / high_freq_factor`, else
///   `(1 - s) f / factor + s f` with `s = (n / w - low_freq_factor) / (high_freq_factor -
///   low_freq_factor)`;
/// * factors: `f[i] / factors[i]`.
///
/// Source: Su et al., arXiv:2104.09864; the scalings as transformers' `modeling_rope_utils.py`
/// defines them (there in f32).
pub fn inv_freqs(config: &Config) -> Vec<f64> {
    let n = config.head_dim / 2;
    let plain = |i: usize| {
        let exponent = (2 * i) as f64 / config.head_dim as f64;
        1.0 / libm::pow(config.rope_theta, exponent)
    };
    (0..n)
        .map(|i| scaled(&config.rope_scaling, i, plain(i)))
        .collect()
}

fn scaled(scaling: &RopeScaling, i: usize, freq: f64) -> f64 {
    match scaling {
        RopeScaling::None => freq,
        RopeScaling::Linear { factor } => freq / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_seq_len,
        } => {
            let (n, wavelength) = (*original_max_seq_len as f64, TAU / freq);
            if wavelength > n / low {
                freq / factor
            } else if wavelength < n / high {
                freq
            } else {
                let s = (n / wavelength - low) / (high - low);
                (1.0 - s) * freq / factor + s * freq
            }
        }
        RopeScaling::Factors { factors } => freq / f64::from(factors[i]),
    }
}

/// The cosines and sines of position `pos`: `cos(pos * f[i])`, `sin(pos * f[i])`, rounded once.
///
/// * `inv_freqs`, `cos`, `sin`: `[head_dim / 2]`.
///
/// # Panics
///
/// If the lengths differ.
pub fn fill(inv_freqs: &[f64], pos: usize, cos: &mut [f32], sin: &mut [f32]) {
    assert!(
        cos.len() == inv_freqs.len() && sin.len() == inv_freqs.len(),
        "lengths differ"
    );
    for ((f, cos), sin) in inv_freqs.iter().zip(cos).zip(sin) {
        let (s, c) = libm::sincos(pos as f64 * f);
        (*sin, *cos) = (s as f32, c as f32);
    }
}

/// The frequencies of a model, kept for [`fill`].
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    inv_freqs: Vec<f64>,
}

impl RopeTable {
    /// The table of a model.
    pub fn new(config: &Config) -> Self {
        Self {
            inv_freqs: inv_freqs(config),
        }
    }

    /// [`inv_freqs`].
    pub fn inv_freqs(&self) -> &[f64] {
        &self.inv_freqs
    }

    /// [`fill`].
    ///
    /// # Panics
    ///
    /// If `cos` or `sin` is not `[head_dim / 2]`.
    pub fn fill(&self, pos: usize, cos: &mut [f32], sin: &mut [f32]) {
        fill(&self.inv_freqs, pos, cos, sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Variant;

    #[test]
    fn frequencies_fall_from_one_as_powers_of_theta() {
        let mut config = Variant::Llama.config();
        config.rope_theta = 65536.0;
        let f = inv_freqs(&config);
        let want = [1.0, 0.25, 0.0625, 0.015625].map(|v: f64| v);
        assert_eq!(f[..4], want);
        assert_eq!(f.len(), config.head_dim / 2);
    }

    #[test]
    fn llama3_keeps_short_waves_divides_long_ones_and_joins_them_without_a_step() {
        let mut config = Variant::Llama3Scaled.config();
        config.head_dim = 4096;
        let scaled = inv_freqs(&config);
        config.rope_scaling = RopeScaling::None;
        let plain = inv_freqs(&config);
        let mut last = 1.0;
        for (p, s) in plain.iter().zip(&scaled) {
            let (wavelength, ratio) = (TAU / p, p / s);
            if wavelength < 128.0 / 4.0 {
                assert_eq!(ratio, 1.0);
            } else if wavelength > 128.0 {
                assert_eq!(ratio, 8.0);
            }
            assert!(ratio >= last && ratio < last * 1.05, "{ratio} after {last}");
            last = ratio;
        }
    }

    #[test]
    fn a_position_is_rounded_once() {
        let freqs = [1.0, 0.1, 1e-4];
        let (mut cos, mut sin) = ([0.0; 3], [0.0; 3]);
        fill(&freqs, 131_071, &mut cos, &mut sin);
        for i in 0..3 {
            let angle = 131_071.0 * freqs[i];
            // The platform's functions may differ in the last place of f64, which f32 hides.
            assert_eq!((cos[i], sin[i]), (angle.cos() as f32, angle.sin() as f32));
        }
        fill(&freqs, 0, &mut cos, &mut sin);
        assert_eq!((cos, sin), ([1.0; 3], [0.0; 3]));
    }
}
