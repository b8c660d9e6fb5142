//! The best choices for any number of bytes.
//!
//! Every unit (a matrix, or two that need the same type) has options: bytes and a cost. Costs add up.
//! On the lower convex hull of a unit's options each step to the next takes off less cost for a byte
//! than the one before, so sorting the steps of all units by that rate gives, step by step, the best
//! choice for each number of bytes in between (the Lagrangian path of the knapsack). What lies
//! between two steps is filled by those that still fit.

/// One way to store a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    /// Its number among the unit's options.
    pub(crate) option: usize,
    pub(crate) bytes: u64,
    pub(crate) cost: f64,
}

/// A step of a unit from one choice to a larger one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    unit: usize,
    to: Choice,
    bytes: u64,
    gain: f64,
}

/// All best choices, from the smallest to the largest.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    smallest: Vec<Choice>,
    steps: Vec<Step>,
}

/// Bytes and cost of a whole model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Total {
    pub(crate) bytes: u64,
    pub(crate) cost: f64,
}

/// Steps taken within a number of bytes.
#[derive(Clone, Debug)]
struct Filled {
    /// Bytes that are left.
    left: u64,
    /// The steps of each unit, in their order.
    taken: Vec<Vec<usize>>,
}

impl Filled {
    /// Whether step `i` is the next one of its unit.
    fn is_next(&self, steps: &[Step], i: usize) -> bool {
        let unit = steps[i].unit;
        let of_unit = (0..i).filter(|&j| steps[j].unit == unit);
        let taken = &self.taken[unit];
        taken.last().is_none_or(|&last| last < i) && of_unit.count() == taken.len()
    }

    /// Takes in order what fits; a unit whose next step does not fit takes no later one either.
    fn fill(&mut self, steps: &[Step]) {
        for (i, step) in steps.iter().enumerate() {
            if step.bytes <= self.left && self.is_next(steps, i) {
                self.left -= step.bytes;
                self.taken[step.unit].push(i);
            }
        }
    }

    /// With step `i` for as many of the last steps of other units, those of the lowest rates first, as it
    /// needs the room of; `None` where that costs more, or cannot be.
    fn exchanged(&self, steps: &[Step], i: usize) -> Option<Self> {
        if !self.is_next(steps, i) {
            return None;
        }
        let step = &steps[i];
        let mut other = self.clone();
        let (mut loss, most) = (0.0, step.gain * (1.0 - 1e-9));
        while other.left < step.bytes {
            // Later steps have lower rates.
            let tops = other.taken.iter().enumerate();
            let of_others = tops.filter(|(unit, _)| *unit != step.unit);
            let of_others = of_others.filter_map(|(_, taken)| taken.last().copied());
            // One that alone is worth more is passed over.
            let last = of_others.filter(|&j| loss + steps[j].gain < most).max()?;
            other.taken[steps[last].unit].pop();
            other.left += steps[last].bytes;
            loss += steps[last].gain;
        }
        other.left -= step.bytes;
        other.taken[step.unit].push(i);
        Some(other)
    }
}

/// The lower convex hull of options, from the smallest on: bytes rise, costs fall, rates fall.
fn hull(options: &[(u64, f64)]) -> Vec<Choice> {
    let mut all: Vec<Choice> = options
        .iter()
        .enumerate()
        .map(|(option, &(bytes, cost))| Choice {
            option,
            bytes,
            cost,
        })
        .collect();
    // Of two of the same size the cheaper one comes first.
    all.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost)));
    let rate = |a: &Choice, b: &Choice| (a.cost - b.cost) / (b.bytes - a.bytes) as f64;
    let mut hull: Vec<Choice> = Vec::new();
    for next in all {
        if hull.last().is_some_and(|last| next.cost >= last.cost) {
            continue;
        }
        while let [.., before, last] = &hull[..]
            && rate(before, last) <= rate(last, &next)
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

impl Front {
    /// * `units`: of each the bytes and the cost of its options, at least one.
    pub(crate) fn new(units: &[Vec<(u64, f64)>]) -> Self {
        let (mut smallest, mut steps) = (Vec::new(), Vec::new());
        for (unit, options) in units.iter().enumerate() {
            let hull = hull(options);
            smallest.extend(hull.first().copied());
            steps.extend(hull.windows(2).map(|pair| Step {
                unit,
                to: pair[1],
                bytes: pair[1].bytes - pair[0].bytes,
                gain: pair[0].cost - pair[1].cost,
            }));
        }
        let rate = |s: &Step| s.gain / s.bytes as f64;
        // Stable, so equal rates stay in the order of the units, and a unit's own steps in theirs.
        steps.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        Self { smallest, steps }
    }

    /// What the smallest choices come to.
    pub(crate) fn start(&self) -> Total {
        Total {
            bytes: self.smallest.iter().map(|c| c.bytes).sum(),
            cost: self.smallest.iter().map(|c| c.cost).sum(),
        }
    }

    /// What is reached after each step, the start first.
    pub(crate) fn totals(&self) -> Vec<Total> {
        let mut total = self.start();
        let mut totals = vec![total];
        for step in &self.steps {
            total.bytes += step.bytes;
            total.cost -= step.gain;
            totals.push(total);
        }
        totals
    }

    /// The best choices of at most `bytes`; `None`: not even the smallest fit. The option of each unit.
    ///
    /// Steps are taken in their order as far as they fit. A unit much larger than the others may then have
    /// no room for its step, because smaller ones with better rates were taken: where that step takes off
    /// more than the last ones taken that it needs the room of, it is exchanged for these.
    pub(crate) fn within(&self, bytes: u64) -> Option<Vec<usize>> {
        let left = bytes.checked_sub(self.start().bytes)?;
        let mut filled = Filled {
            left,
            taken: vec![Vec::new(); self.smallest.len()],
        };
        filled.fill(&self.steps);
        // Each exchange lowers the cost, so there is an end; the bound is for costs that rounding made.
        for _ in 0..self.steps.len() {
            let exchanged = (0..self.steps.len()).find_map(|i| filled.exchanged(&self.steps, i));
            let Some(next) = exchanged else { break };
            filled = next;
            filled.fill(&self.steps);
        }
        let chosen = filled.taken.iter().zip(&self.smallest);
        Some(
            chosen
                .map(|(taken, smallest)| match taken.last() {
                    Some(&step) => self.steps[step].to.option,
                    None => smallest.option,
                })
                .collect(),
        )
    }

    /// The fewest bytes whose best choices, as [`within`](Self::within) finds them, cost at most `cost`;
    /// `None`: the largest choices cost more.
    pub(crate) fn bytes_for(&self, cost: f64) -> Option<u64> {
        let reached = self.totals().into_iter().find(|t| t.cost <= cost)?;
        // Between that step and the one before it, which may be a large one: with less room others take its
        // place. Costs nearly always fall with bytes, and where they do not more bytes are found.
        let (mut enough, mut too_few) = (reached.bytes, self.start().bytes.saturating_sub(1));
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            match self.cost_within(middle).is_some_and(|c| c <= cost) {
                true => enough = middle,
                false => too_few = middle,
            }
        }
        Some(enough)
    }

    /// What the choices of at most `bytes` cost.
    fn cost_within(&self, bytes: u64) -> Option<f64> {
        let chosen = self.within(bytes)?.into_iter().enumerate();
        let cost = |(unit, option): (usize, usize)| {
            let of_step = |s: &&Step| s.unit == unit && s.to.option == option;
            match self.steps.iter().find(of_step) {
                Some(step) => step.to.cost,
                None => self.smallest[unit].cost,
            }
        };
        Some(chosen.map(cost).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_never_pay_are_not_on_the_hull() {
        let options = [
            (10, 8.0),
            (20, 8.5),
            (20, 2.0),
            (30, 1.9),
            (40, 0.5),
            (40, 0.6),
        ];
        let hull: Vec<_> = hull(&options).iter().map(|c| c.option).collect();
        // 1 costs more than 0; 3 lies above the line from 2 to 4; 5 is 4 at a higher cost.
        assert_eq!(hull, [0, 2, 4]);
    }

    #[test]
    fn a_cost_is_kept_to_without_a_large_step_where_smaller_ones_do() {
        // By rate the large unit's step comes first; the small one's alone is enough.
        let units = [vec![(10, 5.0), (20, 3.0)], vec![(100, 50.0), (200, 20.0)]];
        let front = Front::new(&units);
        assert_eq!(front.bytes_for(54.0), Some(120));
        assert_eq!(front.within(120), Some(vec![1, 0]));
        assert_eq!(front.bytes_for(52.0), Some(210));
        assert_eq!(front.bytes_for(55.0), Some(110));
        assert_eq!(front.bytes_for(22.9), None);
    }

    #[test]
    fn a_large_step_is_not_crowded_out_by_small_ones() {
        // The small unit's step has the better rate, but the large one's takes off much more.
        let units = [vec![(10, 5.0), (13, 1.0)], vec![(100, 50.0), (200, 1.0)]];
        let front = Front::new(&units);
        assert_eq!(front.within(112), Some(vec![0, 0]));
        assert_eq!(front.within(113), Some(vec![1, 0]));
        assert_eq!(front.within(210), Some(vec![0, 1]));
        assert_eq!(front.within(212), Some(vec![0, 1]));
        assert_eq!(front.within(213), Some(vec![1, 1]));
        // The last step taken is worth more than the one that needs its room: the one before it goes.
        let units = [
            vec![(10, 50.0), (20, 40.0)],
            vec![(10, 80.0), (110, 1.0)],
            vec![(10, 50.0), (60, 20.0)],
        ];
        let front = Front::new(&units);
        assert_eq!(front.within(150), Some(vec![1, 1, 0]));
        assert_eq!(front.within(180), Some(vec![0, 1, 1]));
        // The second step of a unit, once the first was taken.
        let units = [
            vec![(10, 5.0), (13, 1.0)],
            vec![(100, 50.0), (150, 20.0), (200, 1.0)],
        ];
        let front = Front::new(&units);
        assert_eq!(front.within(211), Some(vec![0, 2]));
    }

    #[test]
    fn no_other_choice_within_the_bytes_costs_much_less() {
        // All combinations of five units of three options, against the front.
        let mut seed = 7_u64;
        let mut draw = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % 100
        };
        for _ in 0..50 {
            let units: Vec<Vec<(u64, f64)>> = (0..5)
                .map(|_| (0..3).map(|_| (1 + draw(), draw() as f64)).collect())
                .collect();
            let front = Front::new(&units);
            let total = |choices: &[usize]| {
                let picked = units.iter().zip(choices).map(|(u, &c)| u[c]);
                picked.fold((0, 0.0), |(b, c), (bytes, cost)| (b + bytes, c + cost))
            };
            for bytes in [0, 50, 150, 250, 500] {
                let all = (0..3_usize.pow(5)).map(|i| {
                    let choices: Vec<_> = (0..5_u32).map(|u| i / 3_usize.pow(u) % 3).collect();
                    total(&choices)
                });
                let best = all
                    .filter(|t| t.0 <= bytes)
                    .map(|t| t.1)
                    .fold(f64::INFINITY, f64::min);
                match front.within(bytes) {
                    None => assert!(best.is_infinite(), "{units:?} in {bytes}"),
                    Some(choices) => {
                        let (used, cost) = total(&choices);
                        assert!(used <= bytes);
                        // At worst one step short of the continuous optimum, which no choice beats.
                        let step = front.steps.iter().map(|s| s.gain).fold(0.0, f64::max);
                        assert!(cost <= best + step, "{units:?} in {bytes}: {cost}, {best}");
                    }
                }
            }
            let totals = front.totals();
            assert!(totals.is_sorted_by(|a, b| a.bytes < b.bytes && a.cost > b.cost));
            for t in &totals {
                assert_eq!(front.bytes_for(t.cost), Some(t.bytes));
            }
            let last = totals[totals.len() - 1];
            assert_eq!(front.bytes_for(last.cost - 1e-9), None);
            let (bytes, cost) = total(&front.within(last.bytes).unwrap());
            assert!(bytes == last.bytes && (cost - last.cost).abs() < 1e-9);
        }
    }
}
