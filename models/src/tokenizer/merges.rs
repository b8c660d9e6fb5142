//! Byte pair encoding: joining neighbours until no rule applies.
//!
//! ```text
//! while some pair of neighbours has a rule:
//!     take the rule of the lowest rank, the leftmost pair of these; replace the pair by its token
//! ```
//!
//! A short piece does just that, with the ranks of its pairs in an array. A long one (a word of a
//! script without spaces, a line of dashes) would take quadratic time: its pairs wait in a heap
//! ordered by (rank, position), and an entry whose pair has changed since is dropped when it comes
//! up. Both take the same pairs in the same order.

use std::{cmp::Reverse, collections::BinaryHeap};

/// From this many symbols on a heap is faster than an array.
const LONG: usize = 64;
/// There are at most so many rules.
pub(super) const MAX_MERGES: usize = 1 << 24;
/// Marks a free slot, and a pair without a rule. No rank is as large.
const NONE: u32 = u32::MAX;

/// The rule for one pair of tokens.
#[derive(Clone, Copy, Debug)]
struct Rule {
    pair: u64,
    rank: u32,
    token: u32,
}

/// The rules by their pair.
///
/// Open addressing with linear steps in a table that is at most half full.
#[derive(Debug)]
pub(super) struct Merges {
    slots: Vec<Rule>,
    /// The table has `1 << (64 - shift)` slots.
    shift: u32,
}

impl Merges {
    /// Rules `[left, right, joined]` by rank. Of several for one pair the last holds.
    ///
    /// # Panics
    ///
    /// If there are more than [`MAX_MERGES`].
    pub(super) fn new(rules: impl ExactSizeIterator<Item = [u32; 3]>) -> Self {
        assert!(rules.len() <= MAX_MERGES, "too many merges");
        let n_slots = (rules.len() * 2).next_power_of_two().max(2);
        let free = Rule {
            pair: 0,
            rank: NONE,
            token: 0,
        };
        let mut merges = Self {
            slots: vec![free; n_slots],
            shift: 64 - n_slots.trailing_zeros(),
        };
        for (rank, [left, right, token]) in rules.enumerate() {
            let pair = pair_of(left, right);
            let slot = merges.slot(pair);
            merges.slots[slot] = Rule {
                pair,
                rank: rank as u32,
                token,
            };
        }
        merges
    }

    /// `[left, right, joined]` of every rule, by rank.
    pub(super) fn rules(&self) -> Vec<[u32; 3]> {
        let mut rules: Vec<&Rule> = self.slots.iter().filter(|rule| rule.rank != NONE).collect();
        rules.sort_unstable_by_key(|rule| rule.rank);
        rules
            .iter()
            .map(|rule| [(rule.pair >> 32) as u32, rule.pair as u32, rule.token])
            .collect()
    }

    /// Drops the rules that end in one of `tokens`, which are sorted.
    pub(super) fn drop_rules_to(&mut self, tokens: &[u32]) {
        let is_dropped = |rule: &[u32; 3]| tokens.binary_search(&rule[2]).is_ok();
        let mut slots = self.slots.iter().filter(|rule| rule.rank != NONE);
        if !slots.any(|rule| is_dropped(&[0, 0, rule.token])) {
            return;
        }
        let mut rules = self.rules();
        rules.retain(|rule| !is_dropped(rule));
        *self = Self::new(rules.into_iter());
    }

    /// Where the rule of `pair` is or would be.
    fn slot(&self, pair: u64) -> usize {
        // Fibonacci hashing: the upper bits of the product depend on all bits of the pair.
        let mut slot = (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.slots[slot].rank != NONE && self.slots[slot].pair != pair {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        slot
    }

    fn rule(&self, left: u32, right: u32) -> Rule {
        self.slots[self.slot(pair_of(left, right))]
    }

    /// Applies the rules to `symbols` until none applies.
    pub(super) fn apply(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        if symbols.len() < LONG {
            self.apply_short(symbols, &mut scratch.rules);
        } else {
            self.apply_long(symbols, scratch);
        }
    }

    fn apply_short(&self, symbols: &mut Vec<u32>, rules: &mut Vec<(u32, u32)>) {
        let rule = |left, right| {
            let rule = self.rule(left, right);
            (rule.rank, rule.token)
        };
        rules.clear();
        rules.extend(symbols.windows(2).map(|pair| rule(pair[0], pair[1])));
        loop {
            let (mut at, mut lowest) = (0, NONE);
            for (i, &(rank, _)) in rules.iter().enumerate() {
                if rank < lowest {
                    (at, lowest) = (i, rank);
                }
            }
            if lowest == NONE {
                return;
            }
            symbols[at] = rules[at].1;
            symbols.remove(at + 1);
            rules.remove(at);
            if at > 0 {
                rules[at - 1] = rule(symbols[at - 1], symbols[at]);
            }
            if at + 1 < symbols.len() {
                rules[at] = rule(symbols[at], symbols[at + 1]);
            }
        }
    }

    fn apply_long(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        let Scratch {
            heap,
            next,
            previous,
            ..
        } = scratch;
        let n = symbols.len() as u32;
        heap.clear();
        next.clear();
        next.extend(1..=n);
        previous.clear();
        previous.extend((0..n).map(|i| i.wrapping_sub(1)));
        let entry = |at: u32, rank: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
        for (at, pair) in (0..).zip(symbols.windows(2)) {
            let rank = self.rule(pair[0], pair[1]).rank;
            if rank != NONE {
                heap.push(entry(at, rank));
            }
        }
        while let Some(Reverse(top)) = heap.pop() {
            let (rank, at) = ((top >> 32) as u32, top as u32);
            let right = next[at as usize];
            if symbols[at as usize] == NONE || right == n {
                continue;
            }
            let rule = self.rule(symbols[at as usize], symbols[right as usize]);
            if rule.rank != rank {
                continue;
            }
            symbols[at as usize] = rule.token;
            symbols[right as usize] = NONE;
            let after = next[right as usize];
            next[at as usize] = after;
            if after != n {
                previous[after as usize] = at;
                let rank = self.rule(rule.token, symbols[after as usize]).rank;
                if rank != NONE {
                    heap.push(entry(at, rank));
                }
            }
            let before = previous[at as usize];
            if before != NONE {
                let rank = self.rule(symbols[before as usize], rule.token).rank;
                if rank != NONE {
                    heap.push(entry(before, rank));
                }
            }
        }
        symbols.retain(|&symbol| symbol != NONE);
    }
}

const fn pair_of(left: u32, right: u32) -> u64 {
    (left as u64) << 32 | right as u64
}

/// Room that is used again from piece to piece.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    rules: Vec<(u32, u32)>,
    heap: BinaryHeap<Reverse<u64>>,
    next: Vec<u32>,
    previous: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_rank_goes_first_and_of_equal_ones_the_leftmost() {
        // a = 0, b = 1, aa = 2, ab = 3
        let merges = Merges::new([[0, 1, 3], [0, 0, 2]].into_iter());
        for (symbols, want) in [
            (vec![0, 0, 1], vec![0, 3]),
            (vec![0, 0, 0], vec![2, 0]),
            (vec![1, 0], vec![1, 0]),
            (vec![0], vec![0]),
            (vec![], vec![]),
        ] {
            let mut got = symbols.clone();
            merges.apply(&mut got, &mut Scratch::default());
            assert_eq!(got, want, "{symbols:?}");
        }
    }

    #[test]
    fn of_two_rules_for_a_pair_the_last_holds() {
        let merges = Merges::new([[0, 0, 2], [0, 1, 3], [0, 0, 4]].into_iter());
        assert_eq!(merges.rules(), [[0, 1, 3], [0, 0, 4]]);
    }

    proptest! {
        #[test]
        fn the_heap_takes_the_same_pairs_as_the_array(
            rules in prop::collection::vec((0u32..40, 0u32..40), 0..60),
            symbols in prop::collection::vec(0u32..6, 0..150),
        ) {
            // Joined tokens have ids of their own, as content that grows has.
            let rules = rules.into_iter().zip(6u32..).map(|((l, r), id)| [l % id, r % id, id]);
            let merges = Merges::new(rules.collect::<Vec<_>>().into_iter());
            let (mut short, mut long) = (symbols.clone(), symbols);
            merges.apply_short(&mut short, &mut Vec::new());
            merges.apply_long(&mut long, &mut Scratch::default());
            prop_assert_eq!(short, long);
        }
    }
}
