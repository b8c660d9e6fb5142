//! Q4H: as Q4, with scale and shift of the low and the high 16 weights of a block.

use std::arch::x86_64::{__m512i, _mm512_add_epi8, _mm512_set1_epi16};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    sweep::{FEW_ROWS, Unpacked, many, sweep},
    unpack::{Q4_OFFSET, Q4Scales, q4_bytes, q4_bytes_vbmi},
};

const BYTES: usize = QuantType::Q4H.tile_block_bytes();

/// As for Q4, for each half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpacked(block: &[u8; BYTES], bytes: [__m512i; 8]) -> Unpacked<2> {
    let (low, high) = (Q4Scales::new(block, 0), Q4Scales::new(block, 16));
    Unpacked {
        bytes,
        offset: [low.offset(Q4_OFFSET), high.offset(Q4_OFFSET)],
        scale: [low.scale, high.scale],
    }
}

/// The same with the shifts in the bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn uniform(block: &[u8; BYTES], mut bytes: [__m512i; 8]) -> Unpacked<2> {
    let (low, high) = (Q4Scales::new(block, 0), Q4Scales::new(block, 16));
    let shifts = [low.shift_bytes(), high.shift_bytes()];
    for (g, bytes) in bytes.iter_mut().enumerate() {
        *bytes = _mm512_add_epi8(*bytes, shifts[g / 4]);
    }
    Unpacked {
        bytes,
        offset: [_mm512_set1_epi16(-Q4_OFFSET); 2],
        scale: [low.scale, high.scale],
    }
}

/// The nibbles of a block.
#[inline]
fn quants(block: &[u8; BYTES]) -> &[u8; 256] {
    &block[32..].as_chunks().0[0]
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_q4h(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        -Q4_OFFSET,
        |block| unpacked(block, q4_bytes(quants(block))),
        |block| uniform(block, q4_bytes(quants(block))),
    );
}

/// See [`chaski_quant::scalar::matmul`]. VBMI fills the panels; few rows go without, as a closure that
/// enables more than the loop around it is not inlined there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(crate) fn matmul_q4h_vbmi(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() <= FEW_ROWS {
        return matmul_q4h(w, x, out);
    }
    many(w, x, out, -Q4_OFFSET, |panel, blocks| {
        for (b, block) in blocks.iter().enumerate() {
            panel.put(b, &uniform(block, q4_bytes_vbmi(quants(block))));
        }
    });
}
