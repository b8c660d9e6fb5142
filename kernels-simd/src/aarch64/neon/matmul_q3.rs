//! Q3: codes are looked up in the codebook; the shift is a correction of the sum, as in Q4.

use std::arch::aarch64::{
    vandq_u8, vdupq_n_u8, vqtbl1q_s8, vreinterpretq_u8_s8, vshrq_n_u8, vsriq_n_u8,
};

use chaski_quant::{ActRows, QuantType, TileRun, tile::Q3_CODEBOOK};

use super::{
    blocks::Groups,
    load::{load_i8x16, load_u8x16},
    matmul_q4::scales,
    sweep::sweep,
};

const BYTES: usize = QuantType::Q3.tile_block_bytes();

/// The codebook by the bits 0 to 2 of an index of four bits.
pub(super) const CODEBOOK: [i8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = Q3_CODEBOOK[i & 7];
        i += 1;
    }
    out
};

/// The same by the bits 0, 1 and 3.
const CODEBOOK_013: [i8; 16] = {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = Q3_CODEBOOK[i & 3 | i >> 1 & 4];
        i += 1;
    }
    out
};

/// Codebook values of a quad, from 3 vectors.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn codes(quants: &[u8], quad: usize) -> Groups {
    let (codebook, codebook_013) = (load_i8x16(&CODEBOOK, 0), load_i8x16(&CODEBOOK_013, 0));
    let mut v = [vreinterpretq_u8_s8(codebook); 3];
    let mut codes = [codebook; 8];
    for j in 0..3 {
        v[j] = load_u8x16(quants, 64 * j + 16 * quad);
        let high = vshrq_n_u8::<3>(v[j]);
        codes[j] = vqtbl1q_s8(codebook, vandq_u8(v[j], vdupq_n_u8(7)));
        codes[4 + j] = vqtbl1q_s8(codebook, vandq_u8(high, vdupq_n_u8(7)));
    }
    // Bits 2 and 3 of an index are bit 2 of group 3's code and that of group 7's: each table ignores
    // one. The shift with insertion puts two bits below them, and so leaves nothing to mask.
    let third = vshrq_n_u8::<4>(v[2]);
    codes[3] = vqtbl1q_s8(codebook, vsriq_n_u8::<6>(third, v[0]));
    codes[7] = vqtbl1q_s8(codebook_013, vsriq_n_u8::<6>(third, v[1]));
    codes
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_q3(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    // Eight products of -16..=13: at most 8 * 16 * 127 = 16,256.
    sweep::<BYTES, 1, 8, 8>(
        w,
        x,
        out,
        |block| scales(block),
        |block, quad| codes(&block[16..], quad),
    );
}
