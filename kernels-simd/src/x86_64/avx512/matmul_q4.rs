//! Q4: codebook values + 32 as unsigned bytes, one scale for each row.

use std::arch::x86_64::{__m512i, _mm512_add_epi8, _mm512_set1_epi16};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    sweep::{FEW_ROWS, Unpacked, many, sweep},
    unpack::{Q4_OFFSET, Q4Scales, q4_bytes, q4_bytes_vbmi},
};

const BYTES: usize = QuantType::Q4.tile_block_bytes();

/// `bytes`: codebook values + 32 of the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpacked(block: &[u8; BYTES], bytes: [__m512i; 8]) -> Unpacked<1> {
    let scales = Q4Scales::new(block, 0);
    Unpacked {
        bytes,
        offset: [scales.offset(Q4_OFFSET)],
        scale: [scales.scale],
    }
}

/// As [`unpacked`], with the shift in the bytes (they stay below 62) instead of the offset.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn uniform(block: &[u8; BYTES], mut bytes: [__m512i; 8]) -> Unpacked<1> {
    let scales = Q4Scales::new(block, 0);
    let shift = scales.shift_bytes();
    for bytes in &mut bytes {
        *bytes = _mm512_add_epi8(*bytes, shift);
    }
    Unpacked {
        bytes,
        offset: [_mm512_set1_epi16(-Q4_OFFSET)],
        scale: [scales.scale],
    }
}

/// The nibbles of a block.
#[inline]
fn quants(block: &[u8; BYTES]) -> &[u8; 256] {
    &block[16..].as_chunks().0[0]
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_q4(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
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
pub(crate) fn matmul_q4_vbmi(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() <= FEW_ROWS {
        return matmul_q4(w, x, out);
    }
    many(w, x, out, -Q4_OFFSET, |panel, blocks| {
        for (b, block) in blocks.iter().enumerate() {
            panel.put(b, &uniform(block, q4_bytes_vbmi(quants(block))));
        }
    });
}
