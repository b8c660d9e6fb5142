//! Weight tiles times activations: a block is unpacked once, for all rows of activations.

use chaski_quant::{ActRows, BLOCK, QuantType, TILE_ROWS, TileRun, tile};

use chaski_quant::scalar::float_weight;

/// See [`chaski_quant::scalar::matmul`]; `out` holds the sums from block to block.
#[inline(always)]
pub(crate) fn matmul(w: &TileRun<'_>, x: &ActRows<'_>, out: &mut [f32]) {
    let qtype = w.qtype();
    for (i, out) in out.chunks_exact_mut(x.n_rows() * TILE_ROWS).enumerate() {
        let (out, _) = out.as_chunks_mut::<TILE_ROWS>();
        let (scales, blocks) = w.tile(i).split_at(qtype.tile_header_bytes());
        out.fill([0.0; TILE_ROWS]);
        for (b, block) in blocks
            .chunks_exact(qtype.tile_block_bytes())
            .take(w.n_blocks())
            .enumerate()
        {
            if qtype.is_quantized() {
                codes_block(qtype, block, x, b, out);
            } else {
                float_block(qtype, block, x, b, out);
            }
        }
        let (scales, _) = scales.as_chunks::<4>();
        for out in out {
            for (out, scale) in out.iter_mut().zip(scales) {
                *out *= f32::from_le_bytes(*scale);
            }
        }
    }
}

/// The integer values of a block, `[32][16 rows]`; see [`chaski_quant::tile::values`].
#[inline(always)]
fn values(qtype: QuantType, block: &[u8]) -> [[i16; TILE_ROWS]; BLOCK] {
    let mut w = [[0_i16; TILE_ROWS]; BLOCK];
    let (scales, quants) = block.split_at(tile::scales_per_block(qtype) * TILE_ROWS);
    if qtype == QuantType::Q8 {
        for (i, byte) in quants.iter().enumerate() {
            w[i / 64 * 4 + i % 4][i / 4 % 16] = i16::from(byte.cast_signed());
        }
        return w;
    }
    if qtype == QuantType::Q3 {
        for k in 0..BLOCK {
            let (vector, high) = (k / 4 % 4, k / 16);
            for row in 0..TILE_ROWS {
                let byte = |v: usize| quants[64 * v + 4 * row + k % 4];
                let code = if vector < 3 {
                    byte(vector) >> (3 * high) & 7
                } else {
                    byte(high) >> 6 | (byte(2) >> (6 + high) & 1) << 2
                };
                w[k][row] =
                    i16::from(tile::Q3_CODEBOOK[usize::from(code)]) + i16::from(scales[row] & 1);
            }
        }
        return w;
    }
    let (nibbles, upper) = quants.split_at(BLOCK / 2 * TILE_ROWS);
    for (i, byte) in nibbles.iter().enumerate() {
        let (k, row) = (i / 64 * 4 + i % 4, i / 4 % 16);
        (w[k][row], w[16 + k][row]) = (i16::from(byte & 15), i16::from(byte >> 4));
    }
    match qtype {
        QuantType::Q5 => {
            for k in 0..BLOCK {
                for row in 0..TILE_ROWS {
                    w[k][row] += i16::from(upper[row * 4 + k % 4] >> (k / 4) & 1) * 16 - 16;
                }
            }
        }
        QuantType::Q6 => {
            for k in 0..BLOCK {
                let (vector, shift) = (k / 16 * 64, k / 4 % 4 * 2);
                for row in 0..TILE_ROWS {
                    w[k][row] += i16::from(upper[vector + row * 4 + k % 4] >> shift & 3) * 16 - 32;
                }
            }
        }
        _ => {
            for (k, w) in w.iter_mut().enumerate() {
                let scales = if qtype == QuantType::Q4H {
                    &scales[k / 16 * 16..]
                } else {
                    scales
                };
                for (w, scale) in w.iter_mut().zip(scales) {
                    *w = i16::from(tile::Q4_CODEBOOK[*w as usize]) + i16::from(scale & 1);
                }
            }
        }
    }
    w
}

#[inline(always)]
fn codes_block(
    qtype: QuantType,
    block: &[u8],
    x: &ActRows<'_>,
    b: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let w = values(qtype, block);
    let mut bs = [[0.0_f32; TILE_ROWS]; 2];
    for row in 0..TILE_ROWS {
        let scales = tile::scales(qtype, block, row);
        (bs[0][row], bs[1][row]) = (f32::from(scales[0]), f32::from(scales[1]));
    }
    for (t, out) in out.iter_mut().enumerate() {
        let (d, codes) = (x.scales(t)[b], &x.codes(t)[b * BLOCK..][..BLOCK]);
        let mut isum = [[0_i32; TILE_ROWS]; 2];
        for (k, x) in codes.iter().enumerate() {
            let (isum, x) = (&mut isum[k / 16], i32::from(*x));
            for row in 0..TILE_ROWS {
                isum[row] += i32::from(w[k][row]) * x;
            }
        }
        for row in 0..TILE_ROWS {
            let (low, high) = (isum[0][row], isum[1][row]);
            out[row] = if qtype == QuantType::Q4H {
                let acc = (low as f32).mul_add(bs[0][row] * d, out[row]);
                (high as f32).mul_add(bs[1][row] * d, acc)
            } else {
                ((low + high) as f32).mul_add(bs[0][row] * d, out[row])
            };
        }
    }
}

#[inline(always)]
fn float_block(
    qtype: QuantType,
    block: &[u8],
    x: &ActRows<'_>,
    b: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let mut w = [[0.0_f32; TILE_ROWS]; BLOCK];
    for (k, w) in w.iter_mut().enumerate() {
        for (row, w) in w.iter_mut().enumerate() {
            *w = float_weight(qtype, block, row, k);
        }
    }
    for (t, out) in out.iter_mut().enumerate() {
        for (w, x) in w.iter().zip(&x.floats(t)[b * BLOCK..][..BLOCK]) {
            for row in 0..TILE_ROWS {
                out[row] = w[row].mul_add(*x, out[row]);
            }
        }
    }
}
