//! Attention states: merged, and divided at the end.

use std::arch::aarch64::{
    vdivq_f32, vdupq_n_f32, vfmaq_n_f32, vgetq_lane_f32, vmulq_n_f32, vsetq_lane_f32,
};

use super::{
    exp::exp,
    load::{load_f32x4, store_f32x4},
};
use crate::plain::merge_weights::MergeWeights;

/// `exp` of two numbers.
#[inline]
#[target_feature(enable = "neon")]
fn exp2(a: f32, b: f32) -> (f32, f32) {
    let x = exp(vsetq_lane_f32::<1>(b, vdupq_n_f32(a)));
    (vgetq_lane_f32::<0>(x), vgetq_lane_f32::<1>(x))
}

/// How a later state of maximum `m` and sum `l` enters `into`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn merge_weights(into: &[f32], m: f32, l: f32) -> MergeWeights {
    MergeWeights::new(into, m, l, |a, b| exp2(a, b))
}

/// See [`chaski_quant::scalar::attention::merge`].
#[target_feature(enable = "neon")]
pub(crate) fn merge(into: &mut [f32], from: &[f32]) {
    let n = into.len() - 2;
    if from[n + 1] == 0.0 {
        return;
    }
    let weights = merge_weights(into, from[n], from[n + 1]);
    let Some((a, b)) = weights.ab else {
        into.copy_from_slice(from);
        return;
    };
    let whole = n / 4 * 4;
    for i in (0..whole).step_by(4) {
        let scaled = vmulq_n_f32(load_f32x4(into, i), a);
        store_f32x4(into, i, vfmaq_n_f32(scaled, load_f32x4(from, i), b));
    }
    for i in whole..n {
        into[i] = weights.merge(into[i], from[i]);
    }
    weights.finish(into);
}

/// See [`chaski_quant::scalar::attention::finish`].
#[target_feature(enable = "neon")]
pub(crate) fn finish(state: &[f32], out: &mut [f32]) {
    let (n, l) = (out.len(), state[out.len() + 1]);
    let whole = n / 4 * 4;
    for i in (0..whole).step_by(4) {
        store_f32x4(out, i, vdivq_f32(load_f32x4(state, i), vdupq_n_f32(l)));
    }
    for i in whole..n {
        out[i] = state[i] / l;
    }
}
