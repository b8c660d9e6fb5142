//! Q8: `|w|` times `x` with the sign of `w`.
//!
//! Never the reverse: `|w|` is unsigned up to 128, while a code of activations lies in -127..=127
//! and so survives the change of sign.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_abs_epi8, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_ps,
    _mm256_setzero_si256, _mm256_sign_epi8,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{broadcast_codes, load_u8x32},
    matmul_q5::{Unpacked, scales},
    sweep::{ActBlock, sweep},
};

const BYTES: usize = QuantType::Q8.tile_block_bytes();

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(block: &[u8; BYTES], half: usize) -> Unpacked {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (g, codes) in codes.iter_mut().enumerate() {
        *codes = load_u8x32(&block[16..], 64 * g + 32 * half);
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
    let mut isum = _mm256_setzero_si256();
    for g in 0..8 {
        // A pair of products: at most 128 * 127 * 2 = 32,512.
        let pairs: __m256i = _mm256_maddubs_epi16(
            _mm256_abs_epi8(w.codes[g]),
            _mm256_sign_epi8(broadcast_codes(x.codes, g), w.codes[g]),
        );
        isum = _mm256_add_epi32(isum, _mm256_madd_epi16(pairs, ones));
    }
    let scale = _mm256_mul_ps(w.scale, _mm256_set1_ps(x.scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale, acc)
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q8(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        |block, half| unpack(block, half),
        |w, x, acc| step(w, x, acc),
    );
}
