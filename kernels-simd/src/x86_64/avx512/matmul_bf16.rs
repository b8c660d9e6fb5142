//! BF16 weights: the upper half of a float.

use std::arch::x86_64::{_mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_slli_epi32};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{float_sweep::float_sweep, load::load_u8x32};

const BYTES: usize = QuantType::BF16.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_bf16(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    float_sweep(w, x, out, |block: &[u8; BYTES], i| {
        let upper = _mm512_cvtepu16_epi32(load_u8x32(block, 2 * i));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
    });
}
