//! Q8: codes are values.

use std::arch::aarch64::vreinterpretq_s8_u8;

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    blocks::Groups,
    load::{load_i8x16, load_u8x16},
    matmul_q5::scales,
    sweep::sweep,
};

const BYTES: usize = QuantType::Q8.tile_block_bytes();

/// Values of a quad.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn codes(quants: &[u8], quad: usize) -> Groups {
    let mut codes = [load_i8x16(&[0; 16], 0); 8];
    for (g, codes) in codes.iter_mut().enumerate() {
        *codes = vreinterpretq_s8_u8(load_u8x16(quants, 64 * g + 16 * quad));
    }
    codes
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_q8(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    // Two products of -127..=127: at most 2 * 127 * 127 = 32,258.
    sweep::<BYTES, 1, 2, 2>(
        w,
        x,
        out,
        |block| scales(block, 0),
        |block, quad| codes(&block[16..], quad),
    );
}
