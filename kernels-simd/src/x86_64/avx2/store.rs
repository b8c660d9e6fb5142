//! Keys and values into a KV tile.

use std::arch::x86_64::{
    __m256, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtps_epi32, _mm256_cvtps_ph, _mm256_max_ps,
    _mm256_min_ps, _mm256_mul_ps, _mm256_set1_ps,
};

use chaski_quant::scalar::{
    ACT_AMAX_MIN,
    attention::{KV_TILE, KvType},
};

use super::{
    load::{load_f32x8, store_u8x16, to_i32x8},
    quantize_row::largest_magnitude,
};

/// Elements that are converted at a time.
const STEP: usize = 8;

/// 8 floats, or their last `n` padded with zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_padded(x: &[f32]) -> __m256 {
    if x.len() >= STEP {
        return load_f32x8(x, 0);
    }
    let mut padded = [0.0; STEP];
    padded[..x.len()].copy_from_slice(x);
    load_f32x8(&padded, 0)
}

/// Writes element `c` of `x` at element `at(c)` of `part`, and for Q8 the scale of position `pos`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(kv_type: KvType, part: &mut [u8], pos: usize, x: &[f32], at: impl Fn(usize) -> usize) {
    match kv_type {
        KvType::F32 => {
            for (c, v) in x.iter().enumerate() {
                part[4 * at(c)..][..4].copy_from_slice(&v.to_le_bytes());
            }
        }
        KvType::F16 => {
            for (i, x) in x.chunks(STEP).enumerate() {
                // The second operand where one is NaN, so NaN passes.
                let v = _mm256_min_ps(_mm256_set1_ps(65504.0), load_padded(x));
                let v = _mm256_max_ps(_mm256_set1_ps(-65504.0), v);
                let mut halves = [0; 16];
                store_u8x16(
                    &mut halves,
                    0,
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v),
                );
                for (c, half) in halves.as_chunks::<2>().0[..x.len()].iter().enumerate() {
                    part[2 * at(i * STEP + c)..][..2].copy_from_slice(half);
                }
            }
        }
        KvType::Q8 => {
            let amax = largest_magnitude(x);
            let zero = amax < ACT_AMAX_MIN;
            let (d, inverse) = if zero {
                (0.0, 0.0)
            } else {
                (amax / 127.0, 127.0 / amax)
            };
            for (i, x) in x.chunks(STEP).enumerate() {
                let codes = _mm256_mul_ps(load_padded(x), _mm256_set1_ps(inverse));
                let codes: [i32; STEP] = to_i32x8(_mm256_cvtps_epi32(codes));
                for (c, code) in codes[..x.len()].iter().enumerate() {
                    part[at(i * STEP + c)] = *code as i8 as u8;
                }
            }
            part[KV_TILE * x.len() + 4 * pos..][..4].copy_from_slice(&d.to_le_bytes());
        }
    }
}

/// See [`chaski_quant::scalar::attention::store_key`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn store_key(kv_type: KvType, part: &mut [u8], pos: usize, key: &[f32]) {
    let first = pos / 16 * 16 * key.len() + pos % 16;
    store(kv_type, part, pos, key, |c| first + c * 16);
}

/// See [`chaski_quant::scalar::attention::store_value`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn store_value(kv_type: KvType, part: &mut [u8], pos: usize, value: &[f32]) {
    let first = pos * value.len();
    store(kv_type, part, pos, value, |c| first + c);
}
