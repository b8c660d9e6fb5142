//! Q6: codes 0..=63 as unsigned bytes; the value is the code less 32.

use std::arch::x86_64::{
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_slli_epi16, _mm512_srli_epi16,
    _mm512_ternarylogic_epi32,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{load_u8x16, load_u8x64},
    matmul_q5::OR_AND,
    sweep::{Unpacked, sweep},
    unpack::{i8_scales, nibbles},
};

const BYTES: usize = QuantType::Q6.tile_block_bytes();
const OFFSET: i16 = -32;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack(block: &[u8; BYTES]) -> Unpacked<1> {
    let mut bytes = nibbles(&block[16..].as_chunks().0[0]);
    for h in 0..2 {
        let upper = load_u8x64(block, 16 + 256 + 64 * h);
        // Bits 2j..2j + 2 of a byte are the upper bits of group 4h + j: each to bits 4..6.
        let shifted = [
            _mm512_slli_epi16::<4>(upper),
            _mm512_slli_epi16::<2>(upper),
            upper,
            _mm512_srli_epi16::<2>(upper),
        ];
        for j in 0..4 {
            let group = &mut bytes[4 * h + j];
            let mask = _mm512_set1_epi8(0x30);
            *group = _mm512_ternarylogic_epi32::<OR_AND>(*group, shifted[j], mask);
        }
    }
    Unpacked {
        bytes,
        offset: [_mm512_set1_epi16(OFFSET)],
        scale: [i8_scales(load_u8x16(block, 0))],
    }
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_q6(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        OFFSET,
        |block| unpack(block),
        |block| unpack(block),
    );
}
