//! Q4H: as Q4, with scale and shift of the low and the high 16 weights of a block.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_ps,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    load::{broadcast_codes, broadcast_pair},
    matmul_q4::{scales, values},
    sweep::{ActBlock, sweep},
};

const BYTES: usize = QuantType::Q4H.tile_block_bytes();

/// Half a block: 8 rows.
#[derive(Clone, Copy)]
struct Unpacked {
    /// Groups 0..8, each 8 rows by 4 values of 0..=60.
    values: [__m256i; 8],
    /// `shift - 32` of the low and the high weights, each twice in each lane.
    offset: [__m256i; 2],
    /// Block scales of the low and the high weights.
    scale: [__m256; 2],
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(block: &[u8; BYTES], half: usize) -> Unpacked {
    let (low, high) = (scales(&block[..16], half), scales(&block[16..32], half));
    Unpacked {
        values: values(&block[32..], half),
        offset: [low.1, high.1],
        scale: [low.0, high.0],
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step(w: &Unpacked, x: &ActBlock<'_>, mut acc: __m256) -> __m256 {
    let ones = _mm256_set1_epi16(1);
    for h in 0..2 {
        let sum = if h == 0 {
            [x.sums[0], 0]
        } else {
            [0, x.sums[1]]
        };
        let mut isum = _mm256_madd_epi16(w.offset[h], broadcast_pair(sum));
        for g in [4 * h, 4 * h + 2] {
            // Two pairs of products: at most 60 * 127 * 4 = 30,480.
            let pairs = _mm256_add_epi16(
                _mm256_maddubs_epi16(w.values[g], broadcast_codes(x.codes, g)),
                _mm256_maddubs_epi16(w.values[g + 1], broadcast_codes(x.codes, g + 1)),
            );
            isum = _mm256_add_epi32(isum, _mm256_madd_epi16(pairs, ones));
        }
        let scale = _mm256_mul_ps(w.scale[h], _mm256_set1_ps(x.scale));
        acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale, acc);
    }
    acc
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        |block, half| unpack(block, half),
        |w, x, acc| step(w, x, acc),
    );
}
