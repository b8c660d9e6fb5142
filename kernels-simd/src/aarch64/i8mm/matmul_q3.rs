//! Q3: codes are looked up in the codebook; the shift is a correction of the sum.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::sweep::{MIN_ROWS, sweep};
use crate::aarch64::{
    dotprod,
    neon::{matmul_q3::codes, matmul_q4::scales},
};

const BYTES: usize = QuantType::Q3.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) fn matmul_q3(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() < MIN_ROWS {
        return dotprod::matmul_q3::matmul_q3(w, x, out);
    }
    sweep::<BYTES, 1>(
        w,
        x,
        out,
        |block| scales(block),
        |block, quad| codes(&block[16..], quad),
    );
}
