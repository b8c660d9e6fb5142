//! Activations to 8 bits.

use crate::{BLOCK, acts::ActRowMut};

/// Blocks whose largest magnitude is below this (2^-100) become zeros: `127 / amax` stays finite and
/// normal for all others.
pub const ACT_AMAX_MIN: f32 = f32::from_bits((127 - 100) << 23);

/// Quantises 32 activations: codes, scale `d` and the sums of the codes `0..16` and `16..32`.
///
/// `d = amax / 127` and `code = round_ties_even(x * (127 / amax))`; below [`ACT_AMAX_MIN`] all is
/// zero. Every `x` must be finite.
pub fn quantize_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32, [i16; 2]) {
    let amax = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    if amax < ACT_AMAX_MIN {
        return ([0; BLOCK], 0.0, [0; 2]);
    }
    let inverse = 127.0 / amax;
    let codes = x.map(|v| (v * inverse).round_ties_even() as i8);
    let sum = |half: &[i8]| half.iter().map(|&c| i16::from(c)).sum();
    (codes, amax / 127.0, [sum(&codes[..16]), sum(&codes[16..])])
}

/// Quantises a row, block by block.
///
/// # Panics
///
/// If the parts of `row` do not fit together.
pub fn quantize_row(row: &mut ActRowMut<'_>) {
    let (blocks, rest) = row.floats.as_chunks::<BLOCK>();
    assert!(rest.is_empty() && blocks.len() == row.scales.len(), "whole blocks");
    let (codes, _) = row.codes.as_chunks_mut::<BLOCK>();
    for (b, x) in blocks.iter().enumerate() {
        (codes[b], row.scales[b], row.sums[b]) = quantize_block(x);
    }
}
