//! Norm, rotation, activation and merge: the oracle's steps, for a compiler to vectorise.

use chaski_quant::scalar::tree16;

pub(crate) use super::merge_weights::MergeWeights;

/// See [`chaski_quant::scalar::exp`].
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p.mul_add(r, c);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// See [`chaski_quant::scalar::rms_norm`].
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0_f32; 16];
    for x in x.chunks(16) {
        for (lane, v) in lanes.iter_mut().zip(x) {
            *lane = v.mul_add(*v, *lane);
        }
    }
    let inverse = 1.0 / (tree16(lanes) / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * inverse) * w;
    }
}

/// See [`chaski_quant::scalar::rope`].
#[inline(always)]
pub(crate) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x0, x1) = (*a, *b);
        *a = x0.mul_add(*cos, -(x1 * sin));
        *b = x1.mul_add(*cos, x0 * sin);
    }
}

/// See [`chaski_quant::scalar::swiglu`].
#[inline(always)]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        *out = (g / (1.0 + exp(-g))) * u;
    }
}

/// See [`chaski_quant::scalar::attention::merge`].
#[inline(always)]
pub(crate) fn merge(into: &mut [f32], from: &[f32]) {
    let n = into.len() - 2;
    if from[n + 1] == 0.0 {
        return;
    }
    let weights = MergeWeights::new(into, from[n], from[n + 1], |a, b| (exp(a), exp(b)));
    for (into, from) in into[..n].iter_mut().zip(from) {
        *into = weights.merge(*into, *from);
    }
    weights.finish(into);
}
