//! One row of a tile as numbers: its four bytes of each vector, gathered, then 16 weights at a time.

use std::arch::aarch64::{
    int8x16_t, int16x8_t, uint8x16_t, vaddq_s8, vandq_u8, vcvtq_f32_s32, vdupq_n_s8, vdupq_n_u8,
    vdupq_n_u32, vget_low_s8, vget_low_s16, vmovl_high_s8, vmovl_s8, vmull_high_n_s16, vmull_n_s16,
    vmulq_n_f32, vorrq_u8, vqtbl1q_s8, vreinterpretq_s8_u8, vreinterpretq_s32_u32,
    vreinterpretq_u8_u32, vshlq_u32, vshrq_n_u8, vsubq_s8,
};

use chaski_quant::{
    BLOCK, QuantType, TILE_ROWS, TensorLayout, scalar,
    tile::{Q4_CODEBOOK, q4_scale, scales, scales_per_block},
};

use super::load::{load_i8x16, load_u32x4, store_f32x4};

/// Weights of half a block.
const HALF: usize = BLOCK / 2;

#[inline]
fn four_bytes(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The four bytes of row `row` in each of the 64-byte vectors `first..first + 4`.
#[inline]
#[target_feature(enable = "neon")]
fn gather(quants: &[u8], first: usize, row: usize) -> uint8x16_t {
    let fours = [0, 1, 2, 3].map(|j| four_bytes(quants, (first + j) * 64 + row * 4));
    vreinterpretq_u8_u32(load_u32x4(&fours))
}

/// Bits `at` (a mask of each byte) of the bits of row `row` in the vector at `quants[from]`, with
/// lane `j` moved left by `left[j]` (right where that is negative).
#[inline]
#[target_feature(enable = "neon")]
fn upper_bits(quants: &[u8], from: usize, row: usize, left: [i32; 4], at: u8) -> uint8x16_t {
    let bits = vdupq_n_u32(four_bytes(quants, from + row * 4));
    let left = vreinterpretq_s32_u32(load_u32x4(&left.map(i32::cast_unsigned)));
    // What a shift of 32 bits carries over from the neighbouring byte, the mask drops.
    vandq_u8(vreinterpretq_u8_u32(vshlq_u32(bits, left)), vdupq_n_u8(at))
}

/// The integer values of row `row`'s weights 0..16 and 16..32; see
/// [`chaski_quant::tile::values`].
#[inline]
#[target_feature(enable = "neon")]
fn values(qtype: QuantType, block: &[u8], row: usize) -> [int8x16_t; 2] {
    let quants = &block[scales_per_block(qtype) * TILE_ROWS..];
    if qtype == QuantType::Q8 {
        return [0, 4].map(|first| vreinterpretq_s8_u8(gather(quants, first, row)));
    }
    let v = gather(quants, 0, row);
    let nibbles = [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)];
    let wider = BLOCK / 2 * TILE_ROWS;
    let (bits, offset) = match qtype {
        QuantType::Q5 => {
            let low = upper_bits(quants, wider, row, [4, 3, 2, 1], 0x10);
            let high = upper_bits(quants, wider, row, [0, -1, -2, -3], 0x10);
            ([low, high], 16)
        }
        QuantType::Q6 => {
            let low = upper_bits(quants, wider, row, [4, 2, 0, -2], 0x30);
            let high = upper_bits(quants, wider + 64, row, [4, 2, 0, -2], 0x30);
            ([low, high], 32)
        }
        _ => {
            let codebook = load_i8x16(&Q4_CODEBOOK, 0);
            let second = if qtype == QuantType::Q4H {
                TILE_ROWS
            } else {
                0
            };
            let shift = |at: usize| vdupq_n_s8(q4_scale(block[at + row]).1);
            let value = |codes, at| vaddq_s8(vqtbl1q_s8(codebook, codes), shift(at));
            return [value(nibbles[0], 0), value(nibbles[1], second)];
        }
    };
    let code = |h: usize| vreinterpretq_s8_u8(vorrq_u8(nibbles[h], bits[h]));
    [0, 1].map(|h| vsubq_s8(code(h), vdupq_n_s8(offset)))
}

/// `f32(value * bs) * row_scale` of 8 values.
#[inline]
#[target_feature(enable = "neon")]
fn store_weights(out: &mut [f32], at: usize, values: int16x8_t, bs: i8, row_scale: f32) {
    let low = vmull_n_s16(vget_low_s16(values), bs.into());
    let high = vmull_high_n_s16(values, bs.into());
    store_f32x4(out, at, vmulq_n_f32(vcvtq_f32_s32(low), row_scale));
    store_f32x4(out, at + 4, vmulq_n_f32(vcvtq_f32_s32(high), row_scale));
}

/// See [`chaski_quant::scalar::dequantize_row`].
#[target_feature(enable = "neon")]
pub(crate) fn dequantize_row(layout: &TensorLayout, tile: &[u8], row: usize, out: &mut [f32]) {
    let qtype = layout.qtype();
    if !qtype.is_quantized() || qtype == QuantType::Q3 {
        // Strided numbers, read once: nothing for vectors to do.
        return scalar::dequantize_row(layout, tile, row, out);
    }
    let row_scale = f32::from_bits(four_bytes(tile, 4 * row));
    let blocks = tile[qtype.tile_header_bytes()..].chunks_exact(qtype.tile_block_bytes());
    for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
        let mut numbers = [0.0; BLOCK];
        let parts = values(qtype, block, row)
            .into_iter()
            .zip(scales(qtype, block, row));
        for (h, (values, bs)) in parts.enumerate() {
            let low = vmovl_s8(vget_low_s8(values));
            store_weights(&mut numbers, h * HALF, low, bs, row_scale);
            store_weights(
                &mut numbers,
                h * HALF + 8,
                vmovl_high_s8(values),
                bs,
                row_scale,
            );
        }
        out.copy_from_slice(&numbers[..out.len()]);
    }
}
