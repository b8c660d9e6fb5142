//! The coarse search of the codebook types, in 16-bit integers.
//!
//! Most of the quantiser's time goes into trying scales, and a trial against the codebook costs some
//! forty operations a weight. In 16-bit integers they take half the instructions that they take in
//! floats, and as nothing is rounded after the first step they are exact in any order. A unit of the
//! grid is 16 here, so a weight is off by at most 1/32 of a unit, which tells scales apart well
//! enough; the fine search that follows is in floats.

use super::{Lanes, grid::ROUND};

type Ints = [i16; 16];

/// Sums as in [`trial`](super::trial::trial), with the remainder `t - c` in sixteenths.
pub(super) struct Sums {
    rr: [u16; 16],
    rc: Ints,
    cc: [u16; 16],
}

#[inline(always)]
fn step(beyond: bool, by: i16) -> i16 {
    if beyond { by } else { 0 }
}

/// The nearest values of a codebook, in integers.
pub(super) trait Nearest {
    /// The value, without shift, nearest to `t` sixteenths.
    fn nearest(t: i16) -> i16;
}

/// The codebook of Q4 and Q4H.
pub(super) struct Sixteen;

impl Nearest for Sixteen {
    #[inline(always)]
    fn nearest(t: i16) -> i16 {
        let inner = if t < -192 { -192 } else { t };
        let inner = if inner > 144 { 144 } else { inner };
        // (inner + 216) / 48 by a product: exact for these 337 numbers.
        let thirds = ((u32::from((inner + 216) as u16) * 1366) >> 16) as i16 - 4;
        let up = (step(t > 176, 4) + step(t > 240, 4)) + (step(t > 312, 5) + step(t > 400, 6));
        let down =
            (step(t < -224, 4) + step(t < -296, 5)) + (step(t < -376, 5) + step(t < -464, 6));
        thirds * 3 + (up - down)
    }
}

/// The codebook of Q3.
pub(super) struct Eight;

impl Nearest for Eight {
    #[inline(always)]
    fn nearest(t: i16) -> i16 {
        let inner = if t < -96 { -96 } else { t };
        let inner = if inner > 48 { 48 } else { inner };
        // (inner + 120) / 48, as above.
        let thirds = ((u32::from((inner + 120) as u16) * 1366) >> 16) as i16 - 2;
        let up = step(t > 80, 4) + step(t > 152, 5);
        let down = step(t < -128, 4) + step(t < -208, 6);
        thirds * 3 + (up - down)
    }
}

/// [`trial()`] with the codebook chosen.
pub(super) type Trial = fn(&[Ints], i16) -> Sums;

/// The sums for weights `t` (sixteenths of the grid's unit, `|t| <= 36.5 * 16`) and a shift of 0 or 1.
///
/// A remainder is at most 8.5 units = 136, its square fits in `u16`, its product with a value in
/// `i16`. The sums saturate, which only happens to scales that clip many weights; `cc` is at most
/// 32 * 32^2 = 2^15.
// One body for all callers: inlined, its registers spill.
#[inline(never)]
pub(super) fn trial<N: Nearest>(t: &[Ints], shift: i16) -> Sums {
    let mut s = Sums {
        rr: [0; 16],
        rc: [0; 16],
        cc: [0; 16],
    };
    for t in t {
        for l in 0..16 {
            let t = t[l] - shift * 16;
            let c = N::nearest(t);
            let r = t - c * 16;
            let c = c + shift;
            s.rr[l] = s.rr[l].saturating_add((r as u16).wrapping_mul(r as u16));
            s.rc[l] = s.rc[l].saturating_add(r.wrapping_mul(c));
            s.cc[l] = s.cc[l].wrapping_add((c as u16).wrapping_mul(c as u16));
        }
    }
    s
}

/// The best target and shift for each row.
///
/// * `trial`: of the codebook.
/// * `x`: the group's weights, `[k][row]`, at most 32 of each row.
/// * `per_max`: 1 / the row's largest weight in the group, with its sign; 0 for a negligible group.
#[inline(always)]
pub(super) fn search(
    trial: Trial,
    x: &[Lanes],
    per_max: &Lanes,
    targets: &[f32],
) -> (Lanes, Lanes) {
    let mut t = [[0_i16; 16]; 32];
    let t = &mut t[..x.len()];
    let mut best = [f32::MAX; 16];
    let mut best_target = [0.0; 16];
    let mut best_shift = [0.0; 16];
    for &target in targets {
        let m = per_max.map(|p| p * (target * 16.0));
        for (t, x) in t.iter_mut().zip(x) {
            for l in 0..16 {
                t[l] = (x[l] * m[l] + ROUND).to_bits() as i16;
            }
        }
        let unit = 1.0 / (target * target);
        for shift in [0_i16, 1] {
            let s = trial(t, shift);
            for l in 0..16 {
                let (rr, rc, cc) = (f32::from(s.rr[l]), f32::from(s.rc[l]), f32::from(s.cc[l]));
                let cc = if cc < 1.0 { 1.0 } else { cc };
                let err = (rr - rc * rc / cc) * unit;
                let better = err < best[l];
                best[l] = if better { err } else { best[l] };
                best_target[l] = if better { target } else { best_target[l] };
                best_shift[l] = if better {
                    f32::from(shift)
                } else {
                    best_shift[l]
                };
            }
        }
    }
    (best_target, best_shift)
}

#[cfg(test)]
mod tests {
    use crate::quantize::grid::{Codebook, Eight as Q3, Grid};

    fn check<G: Grid>(largest: i16) {
        let trial = G::COARSE.expect("a trial");
        for shift in [0_i16, 1] {
            for t in -largest..=largest {
                let s = trial(&[[t; 16]], shift);
                let sh = f32::from(shift);
                let exact = f32::from(t) / 16.0 - sh;
                let c = G::nearest(exact) + sh;
                let r = f32::from(t) - c * 16.0;
                // Two values may be equally near.
                assert_eq!(f32::from(s.rr[3]), r * r, "t {t}, shift {shift}");
                if (exact.abs() * 2.0).fract() != 0.0 {
                    assert_eq!(f32::from(s.cc[3]), c * c, "t {t}, shift {shift}");
                    assert_eq!(f32::from(s.rc[3]), r * c, "t {t}, shift {shift}");
                }
            }
        }
    }

    #[test]
    fn the_integer_trial_agrees_with_the_grid() {
        check::<Codebook<32>>(584);
        check::<Q3>(312);
    }
}
