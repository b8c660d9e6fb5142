//! Attention states: merged, and divided at the end.

use std::arch::x86_64::{
    _mm256_div_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setr_ps,
};

use super::{
    exp::exp,
    load::{load_f32x8, store_f32x8},
};
use crate::plain::elementwise::MergeWeights;

/// `exp` of two numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn exp2(a: f32, b: f32) -> (f32, f32) {
    let mut out = [0.0; 8];
    store_f32x8(
        &mut out,
        0,
        exp(_mm256_setr_ps(a, b, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
    );
    (out[0], out[1])
}

/// How a later state of maximum `m` and sum `l` enters `into`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn merge_weights(into: &[f32], m: f32, l: f32) -> MergeWeights {
    MergeWeights::new(into, m, l, |a, b| exp2(a, b))
}

/// See [`chaski_quant::scalar::attention::merge`].
#[target_feature(enable = "avx2,fma,f16c")]
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
    let whole = n / 8 * 8;
    for i in (0..whole).step_by(8) {
        let scaled = _mm256_mul_ps(load_f32x8(into, i), _mm256_set1_ps(a));
        let merged = _mm256_fmadd_ps(load_f32x8(from, i), _mm256_set1_ps(b), scaled);
        store_f32x8(into, i, merged);
    }
    for i in whole..n {
        into[i] = weights.merge(into[i], from[i]);
    }
    weights.finish(into);
}

/// See [`chaski_quant::scalar::attention::finish`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn finish(state: &[f32], out: &mut [f32]) {
    let (n, l) = (out.len(), state[out.len() + 1]);
    let whole = n / 8 * 8;
    for i in (0..whole).step_by(8) {
        store_f32x8(
            out,
            i,
            _mm256_div_ps(load_f32x8(state, i), _mm256_set1_ps(l)),
        );
    }
    for i in whole..n {
        out[i] = state[i] / l;
    }
}
