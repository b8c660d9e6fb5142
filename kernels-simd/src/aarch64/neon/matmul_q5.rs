//! Q5: where the fifth bit is clear, the upper half of the byte is that of `nibble - 16`.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, vbslq_u8, vcvtq_f32_s32, vdup_n_s16, vdupq_n_u8, vget_low_s8,
    vget_low_s16, vmovl_high_s8, vmovl_high_s16, vmovl_s8, vmovl_s16, vmvnq_u8,
    vreinterpretq_s8_u8, vshrq_n_u8, vtstq_u8,
};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    blocks::{Groups, Scales},
    load::{load_i8x16, load_u8x16},
    sweep::sweep,
};

const BYTES: usize = QuantType::Q5.tile_block_bytes();

/// Block scales of types whose scale byte is an `i8`, as floats.
#[inline]
#[target_feature(enable = "neon")]
fn i8_scales(bytes: int8x16_t) -> [float32x4_t; 4] {
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
        vcvtq_f32_s32(vmovl_high_s16(low)),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
        vcvtq_f32_s32(vmovl_high_s16(high)),
    ]
}

/// Block scales of types whose scale byte is an `i8`; every code lacks `offset`.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn scales<const B: usize>(block: &[u8; B], offset: i16) -> Scales<1> {
    Scales {
        scale: [i8_scales(vreinterpretq_s8_u8(load_u8x16(block, 0)))],
        offset: [[vdup_n_s16(offset); 4]],
    }
}

/// Values of a quad.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::aarch64) fn codes(quants: &[u8], quad: usize) -> Groups {
    let mut codes = [load_i8x16(&[0; 16], 0); 8];
    let clear = vmvnq_u8(load_u8x16(quants, 256 + 16 * quad));
    for j in 0..4 {
        let v = load_u8x16(quants, 64 * j + 16 * quad);
        for (g, nibble) in [(j, v), (4 + j, vshrq_n_u8::<4>(v))] {
            // Bit g of a byte is the fifth bit of group g. All bits where it is clear, in place of
            // the upper half of the byte with the nibble.
            let upper = vtstq_u8(clear, vdupq_n_u8(1 << g));
            codes[g] = vreinterpretq_s8_u8(vbslq_u8(vdupq_n_u8(0xf0), upper, nibble));
        }
    }
    codes
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "neon")]
pub(crate) fn matmul_q5(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    // Eight products of -16..=15: at most 8 * 16 * 127 = 16,256.
    sweep::<BYTES, 1, 8, 8>(
        w,
        x,
        out,
        |block| scales(block, 0),
        |block, quad| codes(&block[16..], quad),
    );
}
