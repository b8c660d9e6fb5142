//! Weight rows times activations, and weights as numbers.

use byteorder::{ByteOrder, LittleEndian};
use half::{bf16, f16};

use crate::{ActRows, BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun, tile};

/// Weight `k` (0..32) of row `row` in a tile block of a float type.
///
/// # Panics
///
/// If `qtype` is not a float type.
pub fn float_weight(qtype: QuantType, block: &[u8], row: usize, k: usize) -> f32 {
    let i = k * TILE_ROWS + row;
    match qtype {
        QuantType::F32 => LittleEndian::read_f32(&block[4 * i..]),
        QuantType::F16 => f16::from_bits(LittleEndian::read_u16(&block[2 * i..])).to_f32(),
        QuantType::BF16 => bf16::from_bits(LittleEndian::read_u16(&block[2 * i..])).to_f32(),
        _ => panic!("{qtype} is not a float type"),
    }
}

fn blocks(qtype: QuantType, tile: &[u8], n: usize) -> impl Iterator<Item = (usize, &[u8])> {
    tile[qtype.tile_header_bytes()..].chunks_exact(qtype.tile_block_bytes()).take(n).enumerate()
}

/// One output: row `row` (0..16) of a tile times row `t` of the activations.
///
/// Quantised types: `acc = fma(f32(isum), bs * d, acc)` over the blocks in order, from zero, with
/// the exact integer sum `isum` of products, the block scale `bs` and the activation scale `d`
/// (Q4H: once for each half, low first); then `acc * row_scale`. Float types:
/// `acc = fma(w, x, acc)` over all `k` in order, padding included.
pub fn row_dot(qtype: QuantType, tile: &[u8], row: usize, x: &ActRows<'_>, t: usize) -> f32 {
    let mut acc = 0.0_f32;
    if !qtype.is_quantized() {
        for (b, block) in blocks(qtype, tile, x.n_blocks()) {
            for (k, x) in x.floats(t)[b * BLOCK..][..BLOCK].iter().enumerate() {
                acc = float_weight(qtype, block, row, k).mul_add(*x, acc);
            }
        }
        return acc;
    }
    for (b, block) in blocks(qtype, tile, x.n_blocks()) {
        let (w, bs) = (tile::values(qtype, block, row), tile::scales(qtype, block, row));
        let (q, d) = (&x.codes(t)[b * BLOCK..][..BLOCK], x.scales(t)[b]);
        let isum = |half: std::ops::Range<usize>| -> i32 {
            half.map(|k| i32::from(w[k]) * i32::from(q[k])).sum()
        };
        if qtype == QuantType::Q4H {
            acc = (isum(0..16) as f32).mul_add(f32::from(bs[0]) * d, acc);
            acc = (isum(16..32) as f32).mul_add(f32::from(bs[1]) * d, acc);
        } else {
            acc = (isum(0..32) as f32).mul_add(f32::from(bs[0]) * d, acc);
        }
    }
    acc * LittleEndian::read_f32(&tile[4 * row..])
}

/// Every tile of `w` times every row of `x`.
///
/// * `out`: `[w.n_tiles(), x.n_rows(), 16]`.
///
/// # Panics
///
/// If `out` has another length or the block counts differ.
pub fn matmul(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    assert_eq!(w.n_blocks(), x.n_blocks(), "blocks of weights and activations");
    assert_eq!(out.len(), w.n_tiles() * x.n_rows() * TILE_ROWS, "outputs");
    for (i, out) in out.chunks_exact_mut(TILE_ROWS).enumerate() {
        let (tile, t) = (i / x.n_rows(), i % x.n_rows());
        for (row, out) in out.iter_mut().enumerate() {
            *out = row_dot(w.qtype(), w.tile(tile), row, x, t);
        }
    }
}

/// The weights of row `row` (0..16) of a tile as numbers: `f32(value * block_scale) * row_scale`.
///
/// * `out`: `[cols]`.
pub fn dequantize_row(layout: &TensorLayout, tile: &[u8], row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), layout.cols(), "columns");
    let qtype = layout.qtype();
    let row_scale =
        if qtype.is_quantized() { LittleEndian::read_f32(&tile[4 * row..]) } else { 1.0 };
    for (b, block) in blocks(qtype, tile, layout.n_blocks()) {
        let out = &mut out[b * BLOCK..];
        if qtype.is_quantized() {
            let (w, bs) = (tile::values(qtype, block, row), tile::scales(qtype, block, row));
            for (k, out) in out.iter_mut().take(BLOCK).enumerate() {
                *out = (i32::from(w[k]) * i32::from(bs[k / 16])) as f32 * row_scale;
            }
        } else {
            for (k, out) in out.iter_mut().take(BLOCK).enumerate() {
                *out = float_weight(qtype, block, row, k);
            }
        }
    }
}

/// All rows that tile `tile_index` holds, as numbers: `[tile_rows, cols]`.
pub fn dequantize_tile(layout: &TensorLayout, tile_index: usize, tile: &[u8]) -> Vec<f32> {
    let n_rows = layout.tile_rows(tile_index).len();
    let mut out = vec![0.0; n_rows * layout.cols()];
    for (row, out) in out.chunks_exact_mut(layout.cols()).enumerate() {
        dequantize_row(layout, tile, row, out);
    }
    out
}
