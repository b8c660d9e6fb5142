//! The level `scalar-fma`: plain code in which `mul_add` is one instruction.

use std::arch::is_x86_feature_detected;

use chaski_quant::{
    ActRows, QuantType, TileRun,
    scalar::{self, attention, attention::KvTile},
};

use crate::{
    Kernels, Level,
    plain::{attend_tile as plain_attend, elementwise, matmul as plain_matmul},
};

/// Whether this CPU has what [`TABLE`]'s functions enable.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("fma")
}

/// What has no fused step is the oracle's own.
pub(crate) static TABLE: Kernels = Kernels {
    level: Level::ScalarFma,
    quantize_row: scalar::quantize_row,
    matmul: [matmul; QuantType::ALL.len()],
    rms_norm,
    rope,
    swiglu,
    add: scalar::add,
    store_key: attention::store_key,
    store_value: attention::store_value,
    attend_tile,
    merge,
    finish: attention::finish,
    dequantize_row: scalar::dequantize_row,
};

#[target_feature(enable = "fma")]
fn matmul(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    plain_matmul::matmul(w, x, out);
}

#[target_feature(enable = "fma")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    elementwise::rms_norm(x, weight, eps, out);
}

#[target_feature(enable = "fma")]
fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    elementwise::rope(x, cos, sin);
}

#[target_feature(enable = "fma")]
fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    elementwise::swiglu(gate, up, out);
}

#[target_feature(enable = "fma")]
fn attend_tile(kv: &KvTile<'_>, q: &[f32], ranges: &[[u8; 2]], scale: f32, states: &mut [f32]) {
    plain_attend::attend_tile(kv, q, ranges, scale, states);
}

#[target_feature(enable = "fma")]
fn merge(into: &mut [f32], from: &[f32]) {
    elementwise::merge(into, from);
}
