//! Q4H: as Q4, with scale and shift of the low and the high 16 weights of a block.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::sweep::{MIN_ROWS, sweep};
use crate::aarch64::{
    dotprod,
    neon::{matmul_q4::codes, matmul_q4h::scales},
};

const BYTES: usize = QuantType::Q4H.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() < MIN_ROWS {
        return dotprod::matmul_q4h::matmul_q4h(w, x, out);
    }
    sweep::<BYTES, 2>(
        w,
        x,
        out,
        |block| scales(block),
        |block, quad| codes(&block[32..], quad),
    );
}
