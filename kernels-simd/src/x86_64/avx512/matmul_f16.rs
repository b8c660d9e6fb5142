//! F16 weights, widened exactly.

use std::arch::x86_64::_mm512_cvtph_ps;

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{float_sweep::float_sweep, load::load_u8x32};

const BYTES: usize = QuantType::F16.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_f16(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    float_sweep(w, x, out, |block: &[u8; BYTES], i| {
        _mm512_cvtph_ps(load_u8x32(block, 2 * i))
    });
}
