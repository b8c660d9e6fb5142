//! Sixteen rows of weights, transposed and brought to a common magnitude.

use super::{Lanes, QuantizeError};
use crate::TILE_ROWS;

/// Up to 16 rows as `[k][row]`, each divided by the power of two `2^exponent` that brings its largest
/// weight into `1.0..2.0`: squares neither overflow nor vanish, whatever the row holds. Missing rows
/// and rows of zeros are zero, with exponent 0.
pub(super) struct Panel {
    /// `[cols]`.
    pub(super) x: Vec<Lanes>,
    /// Exponents of the rows, in -149..=127.
    pub(super) exponents: [i32; TILE_ROWS],
    /// Rows that are there; the others are padding.
    pub(super) n_rows: usize,
}

/// `floor(log2(x))` of a finite positive number.
fn exponent(x: f32) -> i32 {
    let bits = x.to_bits();
    match (bits >> 23) as i32 {
        0 => -118 - bits.leading_zeros() as i32,
        e => e - 127,
    }
}

/// `2^e` for `e` in -126..=127.
fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// `2^e` for `e` in -1022..=1023. Not `exp2`, whose last bit is the platform's.
pub(super) fn power_of_two_f64(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

impl Panel {
    /// What a number of the panel is to be multiplied by, for each row.
    pub(super) fn units(&self) -> [f64; TILE_ROWS] {
        self.exponents.map(power_of_two_f64)
    }

    /// `rows`: 1 to 16 of equal length.
    pub(super) fn new(rows: &[&[f32]]) -> Result<Self, QuantizeError> {
        let mut panel = Self {
            x: vec![[0.0; TILE_ROWS]; rows[0].len()],
            exponents: [0; TILE_ROWS],
            n_rows: rows.len(),
        };
        for (lane, row) in rows.iter().enumerate() {
            // As integers, magnitudes compare as the numbers do, and what is not finite comes last.
            let max = row.iter().fold(0, |m, x| m.max(x.abs().to_bits()));
            let max = f32::from_bits(max);
            if !max.is_finite() {
                return Err(QuantizeError::not_finite(lane, row));
            }
            if max == 0.0 {
                continue;
            }
            let e = exponent(max);
            panel.exponents[lane] = e;
            // In two factors, as 2^149 is no f32. Only weights 2^126 times smaller than the row's
            // largest are rounded.
            let half = e / 2;
            let (a, b) = (power_of_two(-half), power_of_two(half - e));
            for (x, w) in panel.x.iter_mut().zip(*row) {
                x[lane] = (w * a) * b;
            }
        }
        Ok(panel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_magnitude_becomes_one_to_two() {
        let maxima = [
            1.0,
            1.999,
            2.0,
            f32::MAX,
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            f32::from_bits(0x7f_ffff),
            3e-40,
            1e38,
        ];
        for max in maxima {
            let panel = Panel::new(&[&[max / 4.0, -max]]).unwrap();
            assert!(
                (1.0..2.0).contains(&-panel.x[1][0]),
                "{max:e}: {:?}",
                panel.x[1][0]
            );
            let back = f64::from(panel.x[1][0]) * power_of_two_f64(panel.exponents[0]);
            assert_eq!(back, -f64::from(max));
        }
    }
}
