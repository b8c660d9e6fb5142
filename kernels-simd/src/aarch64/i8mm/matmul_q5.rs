//! Q5: codes are values.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::sweep::{MIN_ROWS, sweep};
use crate::aarch64::{
    dotprod,
    neon::matmul_q5::{codes, scales},
};

const BYTES: usize = QuantType::Q5.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() < MIN_ROWS {
        return dotprod::matmul_q5::matmul_q5(w, x, out);
    }
    sweep::<BYTES, 1>(
        w,
        x,
        out,
        |block| scales(block, 0),
        |block, quad| codes(&block[16..], quad),
    );
}
