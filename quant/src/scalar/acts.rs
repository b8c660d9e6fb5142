//! Activations to 8 bits.

use crate::{BLOCK, acts::ActRowMut};

/// Blocks whose largest magnitude is below this (2^-100) become zeros: `127 / amax` stays finite and
/// normal for all others.
pub const ACT_AMAX_MIN: f32 = f32::from_bits((127 - 100) << 23);

/// The largest magnitude; NaN if there is one.
///
/// Magnitudes order as their bits do, with infinity above the numbers and NaN above infinity.
pub fn largest_magnitude(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |m, v| m.max(v.abs().to_bits())))
}

/// Quantises 32 activations: codes, scale `d` and the sums of the codes `0..16` and `16..32`.
///
/// `d = amax / 127` and `code = round_ties_even(x * (127 / amax))`; below [`ACT_AMAX_MIN`] all is
/// zero. Where an `x` is not finite, `d` is not finite either (and the codes mean nothing), so that
/// no later sum over the block is finite.
pub fn quantize_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32, [i16; 2]) {
    let amax = largest_magnitude(x);
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
    assert!(
        rest.is_empty() && blocks.len() == row.scales.len(),
        "whole blocks"
    );
    let (codes, _) = row.codes.as_chunks_mut::<BLOCK>();
    for (b, x) in blocks.iter().enumerate() {
        (codes[b], row.scales[b], row.sums[b]) = quantize_block(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_is_not_finite_has_a_scale_that_is_not_finite() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 13, 31] {
                let mut x = [1.0; BLOCK];
                x[at] = bad;
                assert!(!quantize_block(&x).1.is_finite(), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn tiny_blocks_are_zero_and_the_smallest_scaled_block_is_not() {
        let below = f32::from_bits(ACT_AMAX_MIN.to_bits() - 1);
        assert_eq!(quantize_block(&[below; BLOCK]), ([0; BLOCK], 0.0, [0; 2]));
        let (codes, d, sums) = quantize_block(&[-ACT_AMAX_MIN; BLOCK]);
        assert_eq!((codes, sums), ([-127; BLOCK], [-127 * 16; 2]));
        assert_eq!(d, ACT_AMAX_MIN / 127.0);
    }

    #[test]
    fn ties_round_to_even() {
        let mut x = [0.0; BLOCK];
        (x[0], x[1], x[2], x[31]) = (127.0, 2.5, -3.5, 0.5);
        let (codes, d, sums) = quantize_block(&x);
        assert_eq!(
            (codes[0], codes[1], codes[2], codes[31], d),
            (127, 2, -4, 0, 1.0)
        );
        assert_eq!(sums, [125, 0]);
    }
}
