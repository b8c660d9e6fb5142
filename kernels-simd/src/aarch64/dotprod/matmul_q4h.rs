//! Q4H: as Q4, with scale and shift of the low and the high 16 weights of a block.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::sweep::sweep;
use crate::aarch64::neon::{matmul_q4::codes, matmul_q4h::scales};

const BYTES: usize = QuantType::Q4H.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 2>(
        w,
        x,
        out,
        |block| scales(block),
        |block, quad| codes(&block[32..], quad),
    );
}
