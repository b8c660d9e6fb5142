//! From the best scales of the groups to a row scale and integer scales.

use super::{
    Lanes,
    grid::{Grid, clamp, round},
    panel::{Panel, power_of_two_f64},
    trial::{Fit, fit_group, trial},
};
use crate::TILE_ROWS;

/// The scales of a tile: a weight is `value(code) * v * row`, in the panel's magnitude.
pub(super) struct Scales {
    /// The row scale, 0 for a row of zeros.
    pub(super) row: Lanes,
    /// For each group the integer scale, in `-SCALE_MAX..=SCALE_MAX`.
    pub(super) v: Vec<Lanes>,
    /// For each group the shift, 0 or 1; 0 where `v` is 0.
    pub(super) shift: Vec<Lanes>,
}

/// Row scales tried: the largest scale of a group becomes 127.45 (63.45), then half a step less each
/// time. Where the other groups' scales fall between integers is what differs.
const ROW_TRIALS: usize = 16;
const ROW_STEP: f32 = 0.5;

fn integer<G: Grid>(v: f32) -> f32 {
    round(clamp(v, -G::SCALE_MAX, G::SCALE_MAX))
}

fn reciprocal(x: &Lanes) -> Lanes {
    x.map(|x| if x != 0.0 { 1.0 / x } else { 0.0 })
}

/// The range of a row scale, in the panel's magnitude: in the file it is a normal number and no weight
/// of the tile, clipped or not, decodes to infinity.
struct RowRange {
    lo: Lanes,
    hi: Lanes,
}

impl RowRange {
    fn new<G: Grid>(panel: &Panel) -> Self {
        // Slightly less than the quotient, so that its product does not round up to infinity.
        let top = f64::from(f32::MAX) / f64::from(G::VALUE_MAX * G::SCALE_MAX) * (1.0 - 1e-6);
        let unit = panel.exponents.map(|e| power_of_two_f64(-e));
        Self {
            lo: unit.map(|u| (f64::from(f32::MIN_POSITIVE) * u) as f32),
            hi: unit.map(|u| (top * u) as f32),
        }
    }

    /// Zero stays zero.
    fn apply(&self, row: Lanes) -> Lanes {
        std::array::from_fn(|l| {
            if row[l] == 0.0 {
                0.0
            } else {
                clamp(row[l], self.lo[l], self.hi[l])
            }
        })
    }
}

/// Integer scales of all groups at one row scale.
struct Integers {
    v: Vec<Lanes>,
    shift: Vec<Lanes>,
    /// Of each row: sums of `v^2` times weight times value, over the scale, and of `(v value)^2`.
    num: [f64; TILE_ROWS],
    den: [f64; TILE_ROWS],
    /// The error of each row.
    err: [f64; TILE_ROWS],
}

impl Integers {
    #[inline(always)]
    fn fit<G: Grid, const W: bool>(
        panel: &Panel,
        importance: &[f32],
        fits: &[Fit],
        row: &Lanes,
    ) -> Self {
        let zero = [0.0; TILE_ROWS];
        let mut found = Self {
            v: Vec::with_capacity(fits.len()),
            shift: Vec::with_capacity(fits.len()),
            num: zero,
            den: zero,
            err: zero,
        };
        let per_row = reciprocal(row);
        for (i, (x, fit)) in panel.x.chunks(G::GROUP).zip(fits).enumerate() {
            let importance = of_group::<G, W>(importance, i);
            let choice = integer_scale::<G, W>(x, importance, fit, row, &per_row);
            for l in 0..TILE_ROWS {
                let square = f64::from(choice.v[l]) * f64::from(choice.v[l]);
                found.num[l] += square * f64::from(choice.xc[l]);
                found.den[l] += square * f64::from(choice.cc[l]);
                found.err[l] += f64::from(choice.err[l]);
            }
            found.v.push(choice.v);
            found.shift.push(choice.shift);
        }
        found
    }

    /// Takes the rows over in which `other` has a smaller error, and tells which.
    fn improve(&mut self, other: &Self) -> [bool; TILE_ROWS] {
        let better = std::array::from_fn(|l| other.err[l] < self.err[l]);
        let lanes = |ours: &mut Lanes, theirs: &Lanes| {
            for l in 0..TILE_ROWS {
                ours[l] = if better[l] { theirs[l] } else { ours[l] };
            }
        };
        for (ours, theirs) in [(&mut self.v, &other.v), (&mut self.shift, &other.shift)] {
            ours.iter_mut().zip(theirs).for_each(|(a, b)| lanes(a, b));
        }
        for l in (0..TILE_ROWS).filter(|&l| better[l]) {
            (self.num[l], self.den[l], self.err[l]) = (other.num[l], other.den[l], other.err[l]);
        }
        better
    }
}

/// The importance of a group's columns; nothing where there is none.
#[inline(always)]
fn of_group<G: Grid, const W: bool>(importance: &[f32], group: usize) -> &[f32] {
    if W {
        &importance[group * G::GROUP..]
    } else {
        importance
    }
}

/// By how much each further row scale that is tried is larger than the one before: a third of a step of
/// the largest integer scales, so that those of all groups round in other ways, and none leaves its range.
const ROW_FACTOR: f32 = 0.003;

/// Searches all scales of a tile.
///
/// 1. Each group's best scale ([`fit_group`]).
/// 2. The row scale with which the integer scales come closest to those.
/// 3. Each group's integer scale: its neighbours are tried with codes chosen for them. Where the grid asks
///    for it, with some larger row scales too; of these, that with the smallest error stays.
/// 4. The row scale by least squares, codes and integer scales as they are.
#[inline(always)]
pub(super) fn fit_tile<G: Grid, const W: bool>(panel: &Panel, importance: &[f32]) -> Scales {
    let fits: Vec<Fit> = panel
        .x
        .chunks(G::GROUP)
        .enumerate()
        .map(|(i, x)| fit_group::<G, W>(x, of_group::<G, W>(importance, i)))
        .collect();
    let range = RowRange::new::<G>(panel);
    let mut row = range.apply(row_scale::<G>(&fits));
    let first = row;
    let mut best = Integers::fit::<G, W>(panel, importance, &fits, &row);
    for i in 1..G::ROW_SCALES {
        let trial = range.apply(first.map(|r| r * (1.0 + ROW_FACTOR * i as f32)));
        let better = best.improve(&Integers::fit::<G, W>(panel, importance, &fits, &trial));
        for l in 0..TILE_ROWS {
            row[l] = if better[l] { trial[l] } else { row[l] };
        }
    }
    let refit = std::array::from_fn(|l| {
        if best.den[l] > 0.0 {
            (f64::from(row[l]) * (best.num[l] / best.den[l])) as f32
        } else {
            0.0
        }
    });
    Scales {
        row: range.apply(refit),
        v: best.v,
        shift: best.shift,
    }
}

/// Searches the integer scale of one group where the row scale is given.
#[inline(always)]
pub(super) fn fit_integer<G: Grid>(x: &[Lanes], importance: &[f32], row: &Lanes) -> Choice {
    let fit = fit_group::<G, true>(x, importance);
    integer_scale::<G, true>(x, importance, &fit, row, &reciprocal(row))
}

/// The row scale whose multiples come closest to the groups' scales, by the error that they add.
#[inline(always)]
fn row_scale<G: Grid>(fits: &[Fit]) -> Lanes {
    let mut max = [0.0_f32; 16];
    for fit in fits {
        for l in 0..16 {
            let scale = fit.scale[l].abs();
            max[l] = if scale > max[l] { scale } else { max[l] };
        }
    }
    let mut best = [0.0; 16];
    let mut best_err = [f32::MAX; 16];
    for i in 0..ROW_TRIALS {
        let top = G::SCALE_MAX + 0.45 - i as f32 * ROW_STEP;
        let row = max.map(|m| m / top);
        let per_row = reciprocal(&row);
        let mut err = [0.0_f32; 16];
        for fit in fits {
            for l in 0..16 {
                let d = integer::<G>(fit.scale[l] * per_row[l]) * row[l] - fit.scale[l];
                err[l] += fit.curvature[l] * (d * d);
            }
        }
        for l in 0..16 {
            let better = err[l] < best_err[l];
            best_err[l] = if better { err[l] } else { best_err[l] };
            best[l] = if better { row[l] } else { best[l] };
        }
    }
    best
}

/// The integer scale of a group.
pub(super) struct Choice {
    pub(super) v: Lanes,
    pub(super) shift: Lanes,
    /// Sum of weight times value, over the scale.
    xc: Lanes,
    /// Sum of squared values.
    cc: Lanes,
    /// The error.
    err: Lanes,
}

/// Tries the integers about the group's best scale; 0 (all weights become zero) is always one of them.
#[inline(always)]
fn integer_scale<G: Grid, const W: bool>(
    x: &[Lanes],
    importance: &[f32],
    fit: &Fit,
    row: &Lanes,
    per_row: &Lanes,
) -> Choice {
    let zero = [0.0; 16];
    let mut best = Choice {
        v: zero,
        shift: zero,
        xc: zero,
        cc: zero,
        err: fit.energy,
    };
    for neighbour in G::NEIGHBOURS {
        let v: Lanes = std::array::from_fn(|l| {
            integer::<G>(integer::<G>(fit.scale[l] * per_row[l]) + neighbour)
        });
        let scale: Lanes = std::array::from_fn(|l| v[l] * row[l]);
        let s = trial::<G, W>(x, importance, &reciprocal(&scale), &fit.shift);
        for l in 0..16 {
            let err = s.rr[l] * (scale[l] * scale[l]);
            let better = scale[l] != 0.0 && err < best.err[l];
            let pick = |new: f32, old: f32| if better { new } else { old };
            best.err[l] = pick(err, best.err[l]);
            best.v[l] = pick(v[l], best.v[l]);
            best.shift[l] = pick(fit.shift[l], best.shift[l]);
            best.xc[l] = pick(s.rc[l] + s.cc[l], best.xc[l]);
            best.cc[l] = pick(s.cc[l], best.cc[l]);
        }
    }
    best
}
