//! SiLU of the gate times up.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_div_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_xor_ps,
};

use super::{
    exp::exp,
    load::{load_f32_padded, load_f32x16, store_f32_padded, store_f32x16},
};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn swiglu16(gate: __m512, up: __m512) -> __m512 {
    let minus = _mm512_xor_ps(gate, _mm512_set1_ps(-0.0));
    let denominator = _mm512_add_ps(_mm512_set1_ps(1.0), exp(minus));
    _mm512_mul_ps(_mm512_div_ps(gate, denominator), up)
}

/// See [`chaski_quant::scalar::swiglu`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // Whole vectors without a mask: a masked store is not forwarded to the load of whoever reads it next, the quantiser.
    let (gates, gate) = gate.as_chunks::<16>();
    let (ups, up) = up.as_chunks::<16>();
    let (outs, out) = out.as_chunks_mut::<16>();
    for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
        store_f32x16(out, 0, swiglu16(load_f32x16(gate, 0), load_f32x16(up, 0)));
    }
    if !out.is_empty() {
        store_f32_padded(out, swiglu16(load_f32_padded(gate), load_f32_padded(up)));
    }
}
