//! Q8: values + 128 as unsigned bytes, which is their sign bit turned.

use std::arch::x86_64::{
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_setzero_si512, _mm512_xor_si512,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{load_u8x16, load_u8x64},
    sweep::{Unpacked, sweep},
    unpack::i8_scales,
};

const BYTES: usize = QuantType::Q8.tile_block_bytes();
const OFFSET: i16 = -128;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack(block: &[u8; BYTES]) -> Unpacked<1> {
    let mut bytes = [_mm512_setzero_si512(); 8];
    for (g, bytes) in bytes.iter_mut().enumerate() {
        *bytes = _mm512_xor_si512(load_u8x64(block, 16 + 64 * g), _mm512_set1_epi8(-128));
    }
    Unpacked {
        bytes,
        offset: [_mm512_set1_epi16(OFFSET)],
        scale: [i8_scales(load_u8x16(block, 0))],
    }
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_q8(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        OFFSET,
        |block| unpack(block),
        |block| unpack(block),
    );
}
