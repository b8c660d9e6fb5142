//! Q4: codes are looked up in the codebook; the shift is a correction of the sum.

use std::arch::aarch64::{
    float32x4_t, int16x4_t, vandq_u8, vbicq_u8, vcvtq_n_f32_s32, vdupq_n_u8, veorq_u8,
    vget_high_s16, vget_low_s8, vget_low_s16, vget_low_u8, vmovl_high_s8, vmovl_high_s16,
    vmovl_high_u8, vmovl_s8, vmovl_s16, vmovl_u8, vqtbl1q_s8, vreinterpretq_s8_u8,
    vreinterpretq_s16_u16, vshrq_n_u8,
};

use chaski_quant::{ActRows, QuantType, TileRun, tile::Q4_CODEBOOK};

use super::{
    blocks::{Groups, Scales},
    load::{load_i8x16, load_u8x16},
    sweep::sweep,
};

const BYTES: usize = QuantType::Q4.tile_block_bytes();

/// Codebook values of a quad, from 4 vectors of nibbles.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn codes(quants: &[u8], quad: usize) -> Groups {
    let codebook = load_i8x16(&Q4_CODEBOOK, 0);
    let mut codes = [codebook; 8];
    for j in 0..4 {
        let v = load_u8x16(quants, 64 * j + 16 * quad);
        codes[j] = vqtbl1q_s8(codebook, vandq_u8(v, vdupq_n_u8(15)));
        codes[4 + j] = vqtbl1q_s8(codebook, vshrq_n_u8::<4>(v));
    }
    codes
}

/// Block scales of 16 scale bytes, and the shifts as offsets.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn scales16(scale_bytes: &[u8]) -> ([float32x4_t; 4], [int16x4_t; 4]) {
    let bytes = load_u8x16(scale_bytes, 0);
    // The byte is (scale + 64) * 2 + shift: less the shift and 128 it is twice the scale, which a
    // conversion from a number with one fractional bit halves.
    let twice = veorq_u8(vbicq_u8(bytes, vdupq_n_u8(1)), vdupq_n_u8(0x80));
    let twice = vreinterpretq_s8_u8(twice);
    let (low, high) = (vmovl_s8(vget_low_s8(twice)), vmovl_high_s8(twice));
    let shift = vandq_u8(bytes, vdupq_n_u8(1));
    let shift_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(shift)));
    let shift_high = vreinterpretq_s16_u16(vmovl_high_u8(shift));
    (
        [
            vcvtq_n_f32_s32::<1>(vmovl_s16(vget_low_s16(low))),
            vcvtq_n_f32_s32::<1>(vmovl_high_s16(low)),
            vcvtq_n_f32_s32::<1>(vmovl_s16(vget_low_s16(high))),
            vcvtq_n_f32_s32::<1>(vmovl_high_s16(high)),
        ],
        [
            vget_low_s16(shift_low),
            vget_high_s16(shift_low),
            vget_low_s16(shift_high),
            vget_high_s16(shift_high),
        ],
    )
}

/// Block scales and shifts of a block of Q3 or Q4.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn scales<const B: usize>(block: &[u8; B]) -> Scales<1> {
    let (scale, offset) = scales16(&block[..16]);
    Scales {
        scale: [scale],
        offset: [offset],
    }
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_q4(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    // Eight products of -32..=29: at most 8 * 32 * 127 = 32,512.
    sweep::<BYTES, 1, 8, 8>(
        w,
        x,
        out,
        |block| scales(block),
        |block, quad| codes(&block[16..], quad),
    );
}
