//! Plain Rust, lane = row, position or channel: bodies for a compiler to vectorise.
//!
//! Each body is `#[inline(always)]`, so that a `#[target_feature]` function around it decides which
//! instructions it becomes. The level `scalar` does not use them: it is the oracle itself.

#[cfg(target_arch = "x86_64")]
pub(crate) mod attend_tile;
#[cfg(target_arch = "x86_64")]
pub(crate) mod elementwise;
#[cfg(target_arch = "x86_64")]
pub(crate) mod matmul;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod merge_weights;

use chaski_quant::{
    QuantType,
    scalar::{
        self,
        attention::{self, KvTile},
    },
};

use crate::{Kernels, Level};

/// The level `scalar`.
pub(crate) static SCALAR: Kernels = Kernels {
    level: Level::Scalar,
    quantize_row: scalar::quantize_row,
    matmul: [scalar::matmul; QuantType::ALL.len()],
    rms_norm: scalar::rms_norm,
    rope: scalar::rope,
    swiglu: scalar::swiglu,
    add: scalar::add,
    store_key: attention::store_key,
    store_value: attention::store_value,
    attend_tile: attend_tile_scalar,
    merge: attention::merge,
    finish: attention::finish,
    dequantize_row: scalar::dequantize_row,
};

fn attend_tile_scalar(
    kv: &KvTile<'_>,
    q: &[f32],
    ranges: &[[u8; 2]],
    scale: f32,
    states: &mut [f32],
) {
    let queries = q
        .chunks_exact(kv.head_dim)
        .zip(states.chunks_exact_mut(kv.head_dim + 2));
    for (range, (q, state)) in ranges.iter().zip(queries) {
        attention::attend_tile(kv, q, range[0].into(), range[1].into(), scale, state);
    }
}
