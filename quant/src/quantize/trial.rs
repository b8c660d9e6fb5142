//! The best scale of a group by least squares, sixteen rows at once.

use super::{Lanes, coarse, grid::Grid};

/// What a trial scale gives in a group, in units of that scale: with `t = x / scale` and `c` the
/// nearest value, the sums of `(t - c)^2`, `(t - c) c` and `c^2`, each times the importance.
///
/// The scale that suits the values `c` best is then `scale * (1 + rc / cc)`, with the error
/// `(rr - rc^2 / cc) * scale^2`. Sums of remainders keep their digits where `sum(x c)^2 / sum(c^2)`,
/// the textbook's form of the same, loses them: a Q8 error is 3e-5 of the sum of squares.
pub(super) struct Sums {
    pub(super) rr: Lanes,
    pub(super) rc: Lanes,
    pub(super) cc: Lanes,
}

/// Rows that are summed at once: few enough that the sums stay in registers with SSE2.
const STRIP: usize = 8;

/// The sums of one trial: `inverse` = 1 / scale and `shift` for each row.
///
/// * `x`: the group's weights, `[k][row]`; `importance`: `[k]`, not read unless `W`.
#[inline(always)]
pub(super) fn trial<G: Grid, const W: bool>(
    x: &[Lanes],
    importance: &[f32],
    inverse: &Lanes,
    shift: &Lanes,
) -> Sums {
    let mut sums = Sums {
        rr: [0.0; 16],
        rc: [0.0; 16],
        cc: [0.0; 16],
    };
    for from in (0..16).step_by(STRIP) {
        let inverse: [f32; STRIP] = std::array::from_fn(|l| inverse[from + l]);
        let shift: [f32; STRIP] = std::array::from_fn(|l| shift[from + l]);
        let mut rr = [0.0_f32; STRIP];
        let mut rc = [0.0_f32; STRIP];
        let mut cc = [0.0_f32; STRIP];
        for (k, x) in x.iter().enumerate() {
            for l in 0..STRIP {
                let t = x[from + l] * inverse[l];
                let c = if G::SHIFTS {
                    G::nearest(t - shift[l]) + shift[l]
                } else {
                    G::nearest(t)
                };
                let r = t - c;
                let (wr, wc) = if W {
                    (importance[k] * r, importance[k] * c)
                } else {
                    (r, c)
                };
                rr[l] += wr * r;
                rc[l] += wr * c;
                cc[l] += wc * c;
            }
        }
        sums.rr[from..from + STRIP].copy_from_slice(&rr);
        sums.rc[from..from + STRIP].copy_from_slice(&rc);
        sums.cc[from..from + STRIP].copy_from_slice(&cc);
    }
    sums
}

/// The best scale of a group, for each row.
pub(super) struct Fit {
    /// The scale, with its sign; 0 for a negligible group.
    pub(super) scale: Lanes,
    /// The shift of the grid, 0 or 1.
    pub(super) shift: Lanes,
    /// The sum of squared values: another scale adds this times the squared difference to the error.
    pub(super) curvature: Lanes,
    /// The sum of squared weights: the error of scale 0.
    pub(super) energy: Lanes,
    err: Lanes,
    inverse: Lanes,
}

impl Fit {
    /// Tries a scale and keeps it where it is better.
    #[inline(always)]
    fn consider<G: Grid, const W: bool>(
        &mut self,
        x: &[Lanes],
        importance: &[f32],
        inverse: &Lanes,
        shift: &Lanes,
    ) {
        let s = trial::<G, W>(x, importance, inverse, shift);
        for l in 0..16 {
            let unit = if inverse[l] != 0.0 {
                1.0 / inverse[l]
            } else {
                0.0
            };
            let change = if s.cc[l] > 0.0 {
                s.rc[l] / s.cc[l]
            } else {
                0.0
            };
            let err = (s.rr[l] - s.rc[l] * change) * (unit * unit);
            let better = err < self.err[l];
            let pick = |new: f32, old: f32| if better { new } else { old };
            self.err[l] = pick(err, self.err[l]);
            self.scale[l] = pick((1.0 + change) * unit, self.scale[l]);
            self.shift[l] = pick(shift[l], self.shift[l]);
            self.curvature[l] = pick(s.cc[l], self.curvature[l]);
            self.inverse[l] = pick(inverse[l], self.inverse[l]);
        }
    }
}

/// A group whose largest weight is below this has no scale of its own: the row's largest weight is at
/// least 1, so its integer scale is 0 in any case.
const NEGLIGIBLE: f32 = 1e-12;

/// Searches the scale of a group: every target of the grid, then finer steps around the best.
#[inline(always)]
pub(super) fn fit_group<G: Grid, const W: bool>(x: &[Lanes], importance: &[f32]) -> Fit {
    let mut max = [0.0_f32; 16];
    let mut energy = [0.0_f32; 16];
    for (k, x) in x.iter().enumerate() {
        for l in 0..16 {
            max[l] = if x[l].abs() > max[l].abs() {
                x[l]
            } else {
                max[l]
            };
            let square = x[l] * x[l];
            energy[l] += if W { importance[k] * square } else { square };
        }
    }
    let per_max = max.map(|m| if m.abs() > NEGLIGIBLE { 1.0 / m } else { 0.0 });
    let zero = [0.0; 16];
    let mut best = Fit {
        scale: zero,
        shift: zero,
        curvature: zero,
        energy,
        err: [f32::MAX; 16],
        inverse: zero,
    };
    if let Some(trial) = G::COARSE
        && !W
    {
        let (target, shift) = coarse::search(trial, x, &per_max, G::TARGETS);
        let inverse = std::array::from_fn(|l| target[l] * per_max[l]);
        best.consider::<G, W>(x, importance, &inverse, &shift);
    } else {
        for target in G::TARGETS {
            let inverse = per_max.map(|p| target * p);
            best.consider::<G, W>(x, importance, &inverse, &zero);
            if G::SHIFTS {
                best.consider::<G, W>(x, importance, &inverse, &[1.0; 16]);
            }
        }
    }
    for step in G::STEPS {
        let (centre, shift) = (best.inverse, best.shift);
        for factor in [1.0 - step, 1.0 + step] {
            best.consider::<G, W>(x, importance, &centre.map(|i| i * factor), &shift);
        }
    }
    best
}
