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
