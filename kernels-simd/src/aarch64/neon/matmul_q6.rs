//! Q6: codes 0..=63; the value is the code less 32.

use std::arch::aarch64::{
    uint8x16_t, vandq_u8, vbslq_u8, vdupq_n_u8, vreinterpretq_s8_u8, vshlq_n_u8, vshrq_n_u8,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    blocks::Groups,
    load::{load_i8x16, load_u8x16},
    matmul_q5::scales,
    sweep::sweep,
};

const BYTES: usize = QuantType::Q6.tile_block_bytes();

/// What all codes lack.
pub(in crate::aarch64) const OFFSET: i16 = -32;

/// Codes of a quad.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn codes(quants: &[u8], quad: usize) -> Groups {
    let mut codes = [load_i8x16(&[0; 16], 0); 8];
    let mut upper: [[uint8x16_t; 4]; 2] = [[vdupq_n_u8(0); 4]; 2];
    for (h, upper) in upper.iter_mut().enumerate() {
        let v = load_u8x16(quants, 256 + 64 * h + 16 * quad);
        // Bits 2j..2j + 2 of a byte are the upper bits of group 4h + j: each to bits 4..6.
        *upper = [
            vshlq_n_u8::<4>(v),
            vshlq_n_u8::<2>(v),
            v,
            vshrq_n_u8::<2>(v),
        ];
    }
    for j in 0..4 {
        let v = load_u8x16(quants, 64 * j + 16 * quad);
        let nibbles = [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)];
        for h in 0..2 {
            let code = vbslq_u8(vdupq_n_u8(0x30), upper[h][j], nibbles[h]);
            codes[4 * h + j] = vreinterpretq_s8_u8(code);
        }
    }
    codes
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_q6(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    // Four products of 0..=63: at most 4 * 63 * 127 = 32,004; eight of -32..=31: 32,512.
    sweep::<BYTES, 1, 4, 8>(
        w,
        x,
        out,
        |block| scales(block, OFFSET),
        |block, quad| codes(&block[16..], quad),
    );
}
