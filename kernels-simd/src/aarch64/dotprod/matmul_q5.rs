//! Q5: codes are values.

use chaski_quant::{ActRows, QuantType, TileRun};

use super::sweep::sweep;
use crate::aarch64::neon::matmul_q5::{codes, scales};

const BYTES: usize = QuantType::Q5.tile_block_bytes();

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep::<BYTES, 1>(
        w,
        x,
        out,
        |block| scales(block, 0),
        |block, quad| codes(&block[16..], quad),
    );
}
