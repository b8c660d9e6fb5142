//! The integer values that a code can stand for, and how to find the nearest one.

use super::coarse;
use crate::{
    QuantType,
    tile::{Q3_CODEBOOK, Q4_CODEBOOK},
};

/// 1.5 * 2^23. Added and taken away again it rounds any `|t| < 2^22` to the nearest integer, ties to
/// even; left in, the low bits of the sum are that integer.
pub(super) const ROUND: f32 = 12_582_912.0;

#[inline(always)]
pub(super) fn round(t: f32) -> f32 {
    (t + ROUND) - ROUND
}

/// Not `f32::clamp`: two selections that are one instruction each.
#[inline(always)]
pub(super) fn clamp(t: f32, lo: f32, hi: f32) -> f32 {
    let t = if t < lo { lo } else { t };
    if t > hi { hi } else { t }
}

/// The grid of one quant type.
///
/// A *group* is the weights of one row that share a block scale. A *target* is the value that a trial
/// scale maps the group's largest weight to, so its sign decides which end of the grid serves it.
pub(super) trait Grid {
    /// The type.
    const QTYPE: QuantType;
    /// Weights of a group: 32 or 16.
    const GROUP: usize;
    /// Largest magnitude of an integer block scale.
    const SCALE_MAX: f32;
    /// Largest magnitude of a value.
    const VALUE_MAX: f32;
    /// Whether the grid may be shifted by one.
    const SHIFTS: bool;
    /// A trial of the coarse search in integers, where there is one.
    const COARSE: Option<coarse::Trial>;
    /// Targets of the coarse search.
    const TARGETS: &'static [f32];
    /// Steps of the fine search, to both sides of the best scale so far and as fractions of it.
    const STEPS: &'static [f32];
    /// Integer block scales that are tried, as distances from the one nearest to the best scale.
    const NEIGHBOURS: &'static [f32];
    /// Row scales with which all integer scales are tried; 1: only the one that suits the groups' own
    /// scales best.
    const ROW_SCALES: usize;

    /// The value nearest to `t`, of the grid without shift.
    fn nearest(t: f32) -> f32;

    /// The code of a value of the grid without shift.
    fn code(value: i8) -> u8;
}

/// The codebook of Q4 (`N` = 32) and Q4H (`N` = 16).
pub(super) struct Codebook<const N: usize>;

/// Code of value `i - offset` of a codebook; 0 where there is none.
const fn codes_of<const N: usize>(codebook: &[i8], offset: i8) -> [u8; N] {
    let mut codes = [0; N];
    let mut i = 0;
    while i < codebook.len() {
        codes[(codebook[i] + offset) as usize] = i as u8;
        i += 1;
    }
    codes
}

const CODES: [u8; 61] = codes_of(&Q4_CODEBOOK, 32);

#[inline(always)]
fn step(beyond: bool, by: f32) -> f32 {
    if beyond { by } else { 0.0 }
}

impl<const N: usize> Grid for Codebook<N> {
    const QTYPE: QuantType = if N == 32 {
        QuantType::Q4
    } else {
        QuantType::Q4H
    };
    const GROUP: usize = N;
    const SCALE_MAX: f32 = 63.0;
    const VALUE_MAX: f32 = 32.0;
    const SHIFTS: bool = true;
    const COARSE: Option<coarse::Trial> = Some(coarse::trial::<coarse::Sixteen>);
    const TARGETS: &'static [f32] = &[
        -36.5, -34.0, -31.5, -29.0, -26.5, 23.5, 26.0, 28.5, 31.0, 33.5,
    ];
    const STEPS: &'static [f32] = &[0.04, 0.02];
    // Neighbours give 0.001 dB here (0.1 with the linear types) for a tenth of the time.
    const NEIGHBOURS: &'static [f32] = &[0.0];
    const ROW_SCALES: usize = 1;

    #[inline(always)]
    fn nearest(t: f32) -> f32 {
        // From -12 to 9 the values are the multiples of 3; each one outside is a step further.
        let inner = round(clamp(t, -12.0, 9.0) * (1.0 / 3.0)) * 3.0;
        let up = (step(t > 11.0, 4.0) + step(t > 15.0, 4.0))
            + (step(t > 19.5, 5.0) + step(t > 25.0, 6.0));
        let down = (step(t < -14.0, 4.0) + step(t < -18.5, 5.0))
            + (step(t < -23.5, 5.0) + step(t < -29.0, 6.0));
        inner + (up - down)
    }

    #[inline(always)]
    fn code(value: i8) -> u8 {
        CODES[(value + 32) as usize]
    }
}

/// The codebook of Q3.
pub(super) struct Eight;

const EIGHT_CODES: [u8; 29] = codes_of(&Q3_CODEBOOK, 16);

impl Grid for Eight {
    const QTYPE: QuantType = QuantType::Q3;
    const GROUP: usize = 32;
    const SCALE_MAX: f32 = 63.0;
    const VALUE_MAX: f32 = 16.0;
    const SHIFTS: bool = true;
    const COARSE: Option<coarse::Trial> = Some(coarse::trial::<coarse::Eight>);
    const TARGETS: &'static [f32] = &[
        -19.5, -18.0, -16.5, -15.0, -13.5, 10.5, 12.0, 13.5, 15.0, 16.5,
    ];
    const STEPS: &'static [f32] = &[0.04, 0.02];
    const NEIGHBOURS: &'static [f32] = &[0.0];
    const ROW_SCALES: usize = 1;

    #[inline(always)]
    fn nearest(t: f32) -> f32 {
        // From -6 to 3 the values are the multiples of 3; each one outside is a step further.
        let inner = round(clamp(t, -6.0, 3.0) * (1.0 / 3.0)) * 3.0;
        let up = step(t > 5.0, 4.0) + step(t > 9.5, 5.0);
        let down = step(t < -8.0, 4.0) + step(t < -13.0, 6.0);
        inner + (up - down)
    }

    #[inline(always)]
    fn code(value: i8) -> u8 {
        EIGHT_CODES[(value + 16) as usize]
    }
}

/// The integers of Q5 (`HALF` = 16: -16..=15), Q6 (32: -32..=31) and Q8 (127: -127..=127).
pub(super) struct Linear<const HALF: i8>;

impl<const HALF: i8> Grid for Linear<HALF> {
    const QTYPE: QuantType = match HALF {
        16 => QuantType::Q5,
        32 => QuantType::Q6,
        _ => QuantType::Q8,
    };
    const GROUP: usize = 32;
    const SCALE_MAX: f32 = 127.0;
    const VALUE_MAX: f32 = HALF as f32;
    const SHIFTS: bool = false;
    const COARSE: Option<coarse::Trial> = None;
    // Q8 is the same to both sides, so one sign of the target serves it.
    const TARGETS: &'static [f32] = match HALF {
        16 => &[
            -17.0, -16.5, -16.0, -15.5, -15.0, -14.5, -14.0, -13.5, 12.5, 13.0, 13.5, 14.0, 14.5,
            15.0, 15.5, 16.0,
        ],
        32 => &[
            -33.0, -32.5, -32.0, -31.5, -31.0, -30.5, -30.0, -29.5, -29.0, -28.5, 27.5, 28.0, 28.5,
            29.0, 29.5, 30.0, 30.5, 31.0, 31.5, 32.0,
        ],
        _ => &[
            121.0, 122.0, 123.0, 124.0, 124.5, 125.0, 125.5, 126.0, 126.5, 127.0, 127.5,
        ],
    };
    const STEPS: &'static [f32] = &[];
    const NEIGHBOURS: &'static [f32] = if HALF == 127 {
        &[0.0, -1.0, 1.0, -2.0, 2.0, -3.0, 3.0]
    } else {
        &[0.0, -1.0, 1.0]
    };
    // The error of Q8 jumps from one scale to the next: no least squares tells which row scale is
    // best. Each doubling of the number gains about 0.05 dB.
    const ROW_SCALES: usize = if HALF == 127 { 5 } else { 1 };

    #[inline(always)]
    fn nearest(t: f32) -> f32 {
        let hi = if HALF == 127 {
            127.0
        } else {
            f32::from(HALF) - 1.0
        };
        round(clamp(t, -f32::from(HALF), hi))
    }

    #[inline(always)]
    fn code(value: i8) -> u8 {
        if HALF == 127 {
            value as u8
        } else {
            (value + HALF) as u8
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `values` ascending; no finite `t` may have a value nearer than `nearest(t)`.
    fn check<G: Grid>(values: &[i8]) {
        for i in -20_000..20_000_i32 {
            let t = i as f32 / 100.0;
            let got = G::nearest(t);
            let best = values
                .iter()
                .map(|v| (t - f32::from(*v)).abs())
                .fold(f32::MAX, f32::min);
            assert!((t - got).abs() <= best + 1e-4, "{} at {t}: {got}", G::QTYPE);
        }
        for (code, v) in values.iter().enumerate() {
            assert_eq!(G::nearest(f32::from(*v)), f32::from(*v), "{}", G::QTYPE);
            let want = if G::QTYPE == QuantType::Q8 {
                *v as u8
            } else {
                code as u8
            };
            assert_eq!(G::code(*v), want, "{} value {v}", G::QTYPE);
        }
        assert_eq!(G::nearest(1e30), f32::from(values[values.len() - 1]));
        assert_eq!(G::nearest(-1e30), f32::from(values[0]));
    }

    #[test]
    fn nearest_finds_the_nearest_value_of_every_grid() {
        check::<Eight>(&Q3_CODEBOOK);
        check::<Codebook<32>>(&Q4_CODEBOOK);
        check::<Linear<16>>(&(-16..=15).collect::<Vec<_>>());
        check::<Linear<32>>(&(-32..=31).collect::<Vec<_>>());
        check::<Linear<127>>(&(-127..=127).collect::<Vec<_>>());
    }
}
