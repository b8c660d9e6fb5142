//! Q6: codes 0..=63 as unsigned bytes; the value is the code less 32.

use std::arch::x86_64::{
    __m256, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps,
    _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_ps, _mm256_slli_epi16, _mm256_srli_epi16,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{broadcast_codes, broadcast_pair, load_u8x32},
    matmul_q5::{Unpacked, nibbles, scales},
    sweep::{ActBlock, sweep},
};

const BYTES: usize = QuantType::Q6.tile_block_bytes();

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(block: &[u8; BYTES], half: usize) -> Unpacked {
    let mut codes = nibbles(&block[16..16 + 256], half);
    for h in 0..2 {
        let upper = load_u8x32(&block[16 + 256..], 64 * h + 32 * half);
        // Bits 2j..2j + 2 of a byte are the upper bits of group 4h + j: each to bits 4..6.
        let shifted = [
            _mm256_slli_epi16::<4>(upper),
            _mm256_slli_epi16::<2>(upper),
            upper,
            _mm256_srli_epi16::<2>(upper),
        ];
        for j in 0..4 {
            let bits = _mm256_and_si256(shifted[j], _mm256_set1_epi8(0x30));
            codes[4 * h + j] = _mm256_or_si256(codes[4 * h + j], bits);
        }
    }
    Unpacked {
        codes,
        scale: scales(&block[..16], half),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step(w: &Unpacked, x: &ActBlock<'_>, acc: __m256) -> __m256 {
    let ones = _mm256_set1_epi16(1);
    let mut isum = _mm256_madd_epi16(_mm256_set1_epi16(-32), broadcast_pair(x.sums));
    for g in [0, 2, 4, 6] {
        // Two pairs of products: at most 63 * 127 * 4 = 32,004.
        let pair = |g: usize| _mm256_maddubs_epi16(w.codes[g], broadcast_codes(x.codes, g));
        let pairs = _mm256_add_epi16(pair(g), pair(g + 1));
        isum = _mm256_add_epi32(isum, _mm256_madd_epi16(pairs, ones));
    }
    let scale = _mm256_mul_ps(w.scale, _mm256_set1_ps(x.scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale, acc)
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q6(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        |block, half| unpack(block, half),
        |w, x, acc| step(w, x, acc),
    );
}
