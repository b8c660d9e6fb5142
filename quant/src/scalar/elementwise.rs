//! What happens to a row of activations between two matrices.

use super::math::{exp, tree16};

/// RMSNorm: `out = (x * (1 / sqrt(mean(x^2) + eps))) * weight`.
///
/// The squares are summed by `fma(x, x, lane)` in 16 lanes, element `i` in lane `i % 16`, and the
/// lanes by [`tree16`]; the mean is the sum divided by the count.
///
/// * `x`, `weight`, `out`: `[n]`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "lengths differ");
    let mut lanes = [0.0_f32; 16];
    for (i, v) in x.iter().enumerate() {
        lanes[i % 16] = v.mul_add(*v, lanes[i % 16]);
    }
    let inverse = 1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * inverse) * w;
    }
}

/// Rotates one head (pairs `i`, `i + h` with `h = cos.len()`), in place:
/// `y[i] = fma(x[i], cos[i], -(x[i+h] * sin[i]))`, `y[i+h] = fma(x[i+h], cos[i], x[i] * sin[i])`.
///
/// Elements past `2 h` stay as they are (partial rotation).
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let h = cos.len();
    assert!(sin.len() == h && x.len() >= 2 * h, "lengths differ");
    let (a, b) = x.split_at_mut(h);
    for i in 0..h {
        let (x0, x1) = (a[i], b[i]);
        a[i] = x0.mul_add(cos[i], -(x1 * sin[i]));
        b[i] = x1.mul_add(cos[i], x0 * sin[i]);
    }
}

/// `out = (gate / (1 + exp(-gate))) * up`.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "lengths differ");
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        *out = (g / (1.0 + exp(-g))) * u;
    }
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
