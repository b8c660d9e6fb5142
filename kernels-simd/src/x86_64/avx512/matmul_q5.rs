//! Q5: codes 0..=31 as unsigned bytes; the value is the code less 16.

use std::arch::x86_64::{
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_slli_epi16, _mm512_srli_epi16,
    _mm512_ternarylogic_epi32,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{load_u8x16, load_u8x64},
    sweep::{Unpacked, sweep},
    unpack::{i8_scales, nibbles},
};

const BYTES: usize = QuantType::Q5.tile_block_bytes();
const OFFSET: i16 = -16;
/// `a | (b & c)`.
pub(super) const OR_AND: i32 = 0xf8;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpack(block: &[u8; BYTES]) -> Unpacked<1> {
    let fifth = load_u8x64(block, 16 + 256);
    // Bit g of a byte is the fifth bit of group g: each to bit 4. What 16-bit shifts carry over
    // from the neighbouring byte, the mask drops.
    let shifted = [
        _mm512_slli_epi16::<4>(fifth),
        _mm512_slli_epi16::<3>(fifth),
        _mm512_slli_epi16::<2>(fifth),
        _mm512_slli_epi16::<1>(fifth),
        fifth,
        _mm512_srli_epi16::<1>(fifth),
        _mm512_srli_epi16::<2>(fifth),
        _mm512_srli_epi16::<3>(fifth),
    ];
    let mut bytes = nibbles(&block[16..].as_chunks().0[0]);
    for g in 0..8 {
        bytes[g] = _mm512_ternarylogic_epi32::<OR_AND>(bytes[g], shifted[g], _mm512_set1_epi8(16));
    }
    Unpacked {
        bytes,
        offset: [_mm512_set1_epi16(OFFSET)],
        scale: [i8_scales(load_u8x16(block, 0))],
    }
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        OFFSET,
        |block| unpack(block),
        |block| unpack(block),
    );
}
