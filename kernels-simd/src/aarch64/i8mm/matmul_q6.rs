//! Q6: codes 0..=63; the value is the code less 32.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::sweep::{MIN_ROWS, sweep};
use crate::aarch64::{
    dotprod,
    neon::{
        matmul_q5::scales,
        matmul_q6::{OFFSET, codes},
    },
};

const BYTES: usize = QuantType::Q6.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) fn matmul_q6(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() < MIN_ROWS {
        return dotprod::matmul_q6::matmul_q6(w, x, out);
    }
    sweep::<BYTES, 1>(
        w,
        x,
        out,
        |block| scales(block, OFFSET),
        |block, quad| codes(&block[16..], quad),
    );
}
