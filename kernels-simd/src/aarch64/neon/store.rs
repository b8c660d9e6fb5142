//! Keys and values into a KV tile.

use std::arch::aarch64::{
    vcombine_u16, vcvt_f16_f32, vdupq_n_f32, vmaxq_f32, vminq_f32, vreinterpret_u16_f16,
    vreinterpretq_u16_s16,
};

use chaski_quant::scalar::{
    ACT_AMAX_MIN,
    attention::{KV_TILE, KvType},
};

use super::{
    load::{load_f32x4, to_u16x8},
    quantize_row::{codes8, largest_magnitude},
};

/// Elements that are converted at a time.
const STEP: usize = 8;

/// `x`, padded with zeros.
fn padded(x: &[f32]) -> [f32; STEP] {
    let mut padded = [0.0; STEP];
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// 8 floats as binary16, saturated.
#[inline]
#[target_feature(enable = "neon")]
fn halves(x: &[f32; STEP]) -> [u16; STEP] {
    let mut halves = [vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(0.0))); 2];
    for (i, half) in halves.iter_mut().enumerate() {
        // These two give NaN where one operand is NaN, so NaN passes; neither limit is a zero.
        let v = vminq_f32(load_f32x4(x, 4 * i), vdupq_n_f32(65504.0));
        let v = vmaxq_f32(v, vdupq_n_f32(-65504.0));
        *half = vreinterpret_u16_f16(vcvt_f16_f32(v));
    }
    to_u16x8(vcombine_u16(halves[0], halves[1]))
}

/// Writes element `c` of `x` at element `at(c)` of `part`, and for Q8 the scale of position `pos`.
#[inline]
#[target_feature(enable = "neon")]
fn store(kv_type: KvType, part: &mut [u8], pos: usize, x: &[f32], at: impl Fn(usize) -> usize) {
    match kv_type {
        KvType::F32 => {
            for (c, v) in x.iter().enumerate() {
                part[4 * at(c)..][..4].copy_from_slice(&v.to_le_bytes());
            }
        }
        KvType::F16 => {
            for (i, x) in x.chunks(STEP).enumerate() {
                for (c, half) in halves(&padded(x))[..x.len()].iter().enumerate() {
                    part[2 * at(i * STEP + c)..][..2].copy_from_slice(&half.to_le_bytes());
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
                let codes = to_u16x8(vreinterpretq_u16_s16(codes8(&padded(x), 0, inverse)));
                for (c, code) in codes[..x.len()].iter().enumerate() {
                    part[at(i * STEP + c)] = *code as u8;
                }
            }
            part[KV_TILE * x.len() + 4 * pos..][..4].copy_from_slice(&d.to_le_bytes());
        }
    }
}

/// See [`chaski_quant::scalar::attention::store_key`].
#[target_feature(enable = "neon")]
pub(crate) fn store_key(kv_type: KvType, part: &mut [u8], pos: usize, key: &[f32]) {
    let first = pos / 16 * 16 * key.len() + pos % 16;
    store(kv_type, part, pos, key, |c| first + c * 16);
}

/// See [`chaski_quant::scalar::attention::store_value`].
#[target_feature(enable = "neon")]
pub(crate) fn store_value(kv_type: KvType, part: &mut [u8], pos: usize, value: &[f32]) {
    let first = pos * value.len();
    store(kv_type, part, pos, value, |c| first + c);
}
