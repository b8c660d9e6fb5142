//! SiLU of the gate times up.

use std::arch::aarch64::{float32x4_t, vaddq_f32, vdivq_f32, vdupq_n_f32, vmulq_f32, vnegq_f32};

use super::{
    exp::exp,
    load::{load_f32x4, store_f32x4},
};

#[inline]
#[target_feature(enable = "neon")]
fn swiglu4(gate: float32x4_t, up: float32x4_t) -> float32x4_t {
    let denominator = vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(gate)));
    vmulq_f32(vdivq_f32(gate, denominator), up)
}

/// See [`chaski_quant::scalar::swiglu`].
#[target_feature(enable = "neon")]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let whole = out.len() / 4 * 4;
    for i in (0..whole).step_by(4) {
        store_f32x4(out, i, swiglu4(load_f32x4(gate, i), load_f32x4(up, i)));
    }
    let n = out.len() - whole;
    let (mut g, mut u, mut o) = ([0.0; 4], [0.0; 4], [0.0; 4]);
    g[..n].copy_from_slice(&gate[whole..whole + n]);
    u[..n].copy_from_slice(&up[whole..whole + n]);
    store_f32x4(&mut o, 0, swiglu4(load_f32x4(&g, 0), load_f32x4(&u, 0)));
    out[whole..].copy_from_slice(&o[..n]);
}
