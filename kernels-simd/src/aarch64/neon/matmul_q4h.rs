//! Q4H: as Q4, with scale and shift of the low and the high 16 weights of a block.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    blocks::Scales,
    matmul_q4::{codes, scales16},
    sweep::sweep,
};

const BYTES: usize = QuantType::Q4H.tile_block_bytes();

/// Block scales and shifts of both halves.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn scales(block: &[u8; BYTES]) -> Scales<2> {
    let (low, high) = (scales16(&block[..16]), scales16(&block[16..32]));
    Scales {
        scale: [low.0, high.0],
        offset: [low.1, high.1],
    }
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    // Half a block is four products of -32..=29: at most 4 * 32 * 127 = 16,256.
    sweep::<BYTES, 2, 4, 4>(
        w,
        x,
        out,
        |block| scales(block),
        |block, quad| codes(&block[32..], quad),
    );
}
