//! `rope_freqs.weight`: how GGUF has Llama 3's RoPE scaling.

use std::f64::consts::TAU;

use super::{error::GgufError, header::HeaderTensor};
use crate::source::{ReadAt, SourceError};

pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// The longest head that is read, far beyond any model's.
const MAX_FACTORS: usize = 1 << 16;

/// What the published models with this scaling have in common.
pub(super) const LOW_FREQ_FACTOR: f64 = 1.0;
pub(super) const HIGH_FREQ_FACTOR: f64 = 4.0;
pub(super) const ORIGINAL_MAX_SEQ_LEN: usize = 8192;

/// The divisors of the frequencies, where the file has them.
pub(super) fn read(
    file: &ReadAt,
    tensors: &[HeaderTensor],
) -> Result<Option<Vec<f32>>, SourceError> {
    let Some(tensor) = tensors.iter().find(|t| t.name == ROPE_FREQS) else {
        return Ok(None);
    };
    if !tensor.vector || tensor.cols > MAX_FACTORS {
        let cause = GgufError::Shape {
            tensor: tensor.name.clone(),
            dims: vec![tensor.cols as u64, tensor.rows as u64],
            expected: "a vector of half a head's length",
        };
        return Err(SourceError::Gguf {
            path: file.path().to_owned(),
            cause,
        });
    }
    let mut raw = Vec::new();
    file.append(tensor.offset, tensor.bytes as usize, &mut raw)?;
    let mut factors = vec![0.0; tensor.cols];
    tensor.dtype.dequantize(&raw, &mut factors);
    Ok(Some(factors))
}

/// The factor of Llama 3's scaling, if `factors` is what that scaling makes of the frequencies of a head twice as
/// long: then it is better computed from its definition than from divisors that were rounded once.
///
/// The converters that write `rope_freqs.weight` compute in f32, whence the tolerance. The largest divisor is the
/// factor itself: at the published models' `theta` the longest wavelengths are beyond the original context.
pub(super) fn llama3_factor(factors: &[f32], theta: f64) -> Option<f64> {
    const TOLERANCE: f64 = 1e-4;
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    if !(factor > 1.0 && factor.is_finite()) {
        return None;
    }
    let n = ORIGINAL_MAX_SEQ_LEN as f64;
    let same = factors.iter().enumerate().all(|(i, &got)| {
        let wavelength = TAU * theta.powf(i as f64 / factors.len() as f64);
        let s = (n / wavelength - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
        let s = s.clamp(0.0, 1.0);
        let want = 1.0 / ((1.0 - s) / factor + s);
        (f64::from(got) - want).abs() <= TOLERANCE * want
    });
    same.then_some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As llama.cpp's converter computes them, in f32.
    fn converted(factor: f32, theta: f32, head_dim: usize) -> Vec<f32> {
        let n = head_dim / 2;
        let one = |i: usize| {
            let freq = 1.0 / theta.powf((2 * i) as f32 / head_dim as f32);
            let wavelength = 2.0 * std::f32::consts::PI / freq;
            if wavelength < 8192.0 / 4.0 {
                1.0
            } else if wavelength > 8192.0 {
                factor
            } else {
                let s = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
                1.0 / ((1.0 - s) / factor + s)
            }
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn llama_3_scalings_are_recognised() {
        for (factor, head_dim) in [(8.0, 128), (32.0, 64), (32.0, 128)] {
            let factors = converted(factor, 500_000.0, head_dim);
            assert_eq!(
                llama3_factor(&factors, 500_000.0),
                Some(factor.into()),
                "{factor}"
            );
            assert_eq!(llama3_factor(&factors, 10_000.0), None, "{factor}");
            let mut other = factors.clone();
            let middle = other.iter().position(|&f| f > 1.0).unwrap();
            other[middle] *= 1.01;
            assert_eq!(llama3_factor(&other, 500_000.0), None, "{factor}");
        }
        assert_eq!(llama3_factor(&[1.0; 64], 500_000.0), None);
        assert_eq!(llama3_factor(&[], 500_000.0), None);
        assert_eq!(llama3_factor(&[f32::NAN; 4], 500_000.0), None);
        assert_eq!(llama3_factor(&[1.0, f32::INFINITY], 500_000.0), None);
    }
}
