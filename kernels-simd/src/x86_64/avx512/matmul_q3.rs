//! Q3: codebook values + 16 as unsigned bytes, one scale for each row.

use std::arch::x86_64::{__m512i, _mm512_add_epi8, _mm512_set1_epi16};

use chaski_quant::{ActRows, QuantType, TileRun};

use super::{
    sweep::{FEW_ROWS, Unpacked, many, sweep},
    unpack::{Q3_OFFSET, Q4Scales, q3_bytes, q3_bytes_vbmi},
};

const BYTES: usize = QuantType::Q3.tile_block_bytes();

/// `bytes`: codebook values + 16 of the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn unpacked(block: &[u8; BYTES], bytes: [__m512i; 8]) -> Unpacked<1> {
    let scales = Q4Scales::new(block, 0);
    Unpacked {
        bytes,
        offset: [scales.offset(Q3_OFFSET)],
        scale: [scales.scale],
    }
}

/// As [`unpacked`], with the shift in the bytes (they stay below 30) instead of the offset.
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
        offset: [_mm512_set1_epi16(-Q3_OFFSET)],
        scale: [scales.scale],
    }
}

/// The codes of a block.
#[inline]
fn quants(block: &[u8; BYTES]) -> &[u8; 192] {
    &block[16..].as_chunks().0[0]
}

/// See [`chaski_quant::scalar::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn matmul_q3(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    sweep(
        w,
        x,
        out,
        -Q3_OFFSET,
        |block| unpacked(block, q3_bytes(quants(block))),
        |block| uniform(block, q3_bytes(quants(block))),
    );
}

/// See [`chaski_quant::scalar::matmul`]; VBMI for panels alone, as in
/// [`matmul_q4_vbmi`](super::matmul_q4::matmul_q4_vbmi).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(crate) fn matmul_q3_vbmi(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    if x.n_rows() <= FEW_ROWS {
        return matmul_q3(w, x, out);
    }
    many(w, x, out, -Q3_OFFSET, |panel, blocks| {
        for (b, block) in blocks.iter().enumerate() {
            panel.put(b, &uniform(block, q3_bytes_vbmi(quants(block))));
        }
    });
}
