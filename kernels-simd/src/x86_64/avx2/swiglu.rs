//! SiLU of the gate times up.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_div_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_xor_ps,
};

use super::{
    exp::exp,
    load::{load_f32x8, store_f32x8},
};

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn swiglu8(gate: __m256, up: __m256) -> __m256 {
    let minus = _mm256_xor_ps(gate, _mm256_set1_ps(-0.0));
    let denominator = _mm256_add_ps(_mm256_set1_ps(1.0), exp(minus));
    _mm256_mul_ps(_mm256_div_ps(gate, denominator), up)
}

/// See [`chaski_quant::scalar::swiglu`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let whole = out.len() / 8 * 8;
    for i in (0..whole).step_by(8) {
        store_f32x8(out, i, swiglu8(load_f32x8(gate, i), load_f32x8(up, i)));
    }
    let n = out.len() - whole;
    let (mut g, mut u, mut o) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    g[..n].copy_from_slice(&gate[whole..whole + n]);
    u[..n].copy_from_slice(&up[whole..whole + n]);
    store_f32x8(&mut o, 0, swiglu8(load_f32x8(&g, 0), load_f32x8(&u, 0)));
    out[whole..].copy_from_slice(&o[..n]);
}
