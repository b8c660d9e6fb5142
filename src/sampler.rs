//! Which token comes next.
//!
//! The chain: penalties, temperature, top-k, top-p, min-p, a draw. Temperature 0 takes the likeliest
//! token (of equals the one with the lowest id) and looks at nothing else but the penalties. All
//! arithmetic is our own or `libm`'s in f64 and the generator's algorithm is fixed, so that a seed
//! gives the same answer on every machine.

use std::{error::Error, fmt};

use chaski_models::TokenId;
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;

/// How tokens are chosen. `Default` is llama.cpp's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SamplerOptions {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// How many of the likeliest tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The likeliest tokens are kept until their probabilities reach this; 1 keeps all.
    pub top_p: f32,
    /// Tokens below this times the likeliest one's probability are dropped; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of tokens seen lately and multiplies negative ones; 1 is off.
    pub repeat_penalty: f32,
    /// How many of the last tokens the penalties look at.
    pub repeat_last_n: usize,
    /// Subtracted from the logits of tokens seen lately.
    pub presence_penalty: f32,
    /// Subtracted for each time a token was seen lately.
    pub frequency_penalty: f32,
    /// Of the random draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

/// A sampler option out of its range.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerError {
    /// The flag, as a user types it.
    pub flag: &'static str,
    /// What was given.
    pub got: f32,
    /// What is allowed.
    pub expected: &'static str,
}

impl fmt::Display for SamplerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--{} {}: expected {}",
            self.flag, self.got, self.expected
        )
    }
}

impl Error for SamplerError {}

impl SamplerOptions {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    ///
    /// [`SamplerError`] with the first option that is out of its range.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let check = |flag, got: f32, fits: bool, expected| {
            if fits {
                Ok(())
            } else {
                Err(SamplerError {
                    flag,
                    got,
                    expected,
                })
            }
        };
        let (t, r) = (self.temperature, self.repeat_penalty);
        check(
            "temp",
            t,
            (0.0..=1e4).contains(&t),
            "a number from 0 to 10000",
        )?;
        check(
            "top-p",
            self.top_p,
            (0.0..=1.0).contains(&self.top_p),
            "a number from 0 to 1",
        )?;
        check(
            "min-p",
            self.min_p,
            (0.0..=1.0).contains(&self.min_p),
            "a number from 0 to 1",
        )?;
        check(
            "repeat-penalty",
            r,
            r > 0.0 && r <= 1e4,
            "a number above 0, at most 10000",
        )?;
        let (p, f) = (self.presence_penalty, self.frequency_penalty);
        check(
            "presence-penalty",
            p,
            p.abs() <= 1e4,
            "a number from -10000 to 10000",
        )?;
        check(
            "frequency-penalty",
            f,
            f.abs() <= 1e4,
            "a number from -10000 to 10000",
        )
    }

    const fn has_penalties(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Chooses tokens; owns its buffers, so that a choice allocates nothing.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Xoshiro256PlusPlus,
    candidates: Vec<Candidate>,
    /// How often each token was seen lately; only kept with penalties.
    counts: Vec<u32>,
    /// The last tokens, a ring.
    recent: Vec<TokenId>,
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    p: f64,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab_size`.
    ///
    /// # Errors
    ///
    /// An option is out of its range.
    pub fn new(options: SamplerOptions, vocab_size: usize) -> Result<Self, SamplerError> {
        options.validate()?;
        let penalties = options.has_penalties() && options.repeat_last_n > 0;
        Ok(Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(options.seed),
            candidates: Vec::with_capacity(vocab_size),
            counts: vec![0; if penalties { vocab_size } else { 0 }],
            // Longer ones grow with the text.
            recent: Vec::with_capacity(if penalties {
                options.repeat_last_n.min(4096)
            } else {
                0
            }),
            next: 0,
            options,
        })
    }

    /// The options.
    pub const fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Tells the sampler of a token that stands in the text: of the prompt, or chosen.
    pub fn accept(&mut self, token: TokenId) {
        if self.counts.is_empty() {
            return;
        }
        if self.recent.len() < self.options.repeat_last_n {
            self.recent.push(token);
        } else {
            let old = std::mem::replace(&mut self.recent[self.next], token);
            self.counts[old.index()] -= 1;
            self.next = (self.next + 1) % self.recent.len();
        }
        self.counts[token.index()] += 1;
    }

    /// Forgets the text, but not where the random numbers are.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.recent.clear();
        self.next = 0;
    }

    /// Chooses among `logits` (`[vocab_size]`, finite) and accepts the choice.
    ///
    /// # Panics
    ///
    /// If `logits` is empty.
    pub fn sample(&mut self, logits: &[f32]) -> TokenId {
        assert!(!logits.is_empty(), "no logits");
        let id = if self.options.temperature == 0.0 {
            self.greedy(logits)
        } else {
            self.draw(logits)
        };
        self.accept(TokenId(id));
        TokenId(id)
    }

    fn penalized(&self, id: usize, logit: f32) -> f32 {
        let count = self.counts.get(id).copied().unwrap_or(0);
        if count == 0 {
            return logit;
        }
        let o = &self.options;
        let logit = if logit <= 0.0 {
            logit * o.repeat_penalty
        } else {
            logit / o.repeat_penalty
        };
        logit - count as f32 * o.frequency_penalty - o.presence_penalty
    }

    fn greedy(&self, logits: &[f32]) -> u32 {
        let mut best = (0, f32::NEG_INFINITY);
        for (id, &logit) in logits.iter().enumerate() {
            let logit = self.penalized(id, logit);
            if logit > best.1 {
                best = (id, logit);
            }
        }
        best.0 as u32
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let mut kept = std::mem::take(&mut self.candidates);
        kept.clear();
        let candidate = |(id, &logit): (usize, &f32)| {
            let logit = self.penalized(id, logit);
            Candidate {
                id: id as u32,
                logit,
                p: 0.0,
            }
        };
        kept.extend(logits.iter().enumerate().map(candidate));
        let k = self.options.top_k;
        if k > 0 && k < kept.len() {
            kept.select_nth_unstable_by(k - 1, likeliest_first);
            kept.truncate(k);
            // The order of the sums below must not depend on how the selection works.
            kept.sort_unstable_by(likeliest_first);
        }
        let max = kept.iter().fold(
            f32::NEG_INFINITY,
            |m, c| if c.logit > m { c.logit } else { m },
        );
        let (max, temperature) = (f64::from(max), f64::from(self.options.temperature));
        let mut sum = 0.0;
        for c in &mut kept {
            c.p = libm::exp((f64::from(c.logit) - max) / temperature);
            sum += c.p;
        }
        self.filter(&mut kept, sum);
        let id = self.pick(&kept);
        self.candidates = kept;
        id
    }

    /// Top-p, then min-p, on weights `p` relative to the likeliest, whose weight is 1; `sum` is
    /// theirs.
    fn filter(&self, kept: &mut Vec<Candidate>, sum: f64) {
        let (top_p, least) = (f64::from(self.options.top_p), f64::from(self.options.min_p));
        if top_p >= 1.0 && least <= 0.0 {
            return;
        }
        // What is kept are the likeliest, mostly a few of very many, so they are put in order by and
        // by: always the next hundreds, until one is dropped.
        let (mut so_far, mut n_sorted) = (0.0, 0);
        for i in 0..kept.len() {
            if i == n_sorted {
                n_sorted = (4 * n_sorted).max(256).min(kept.len());
                let rest = &mut kept[i..];
                if n_sorted - i < rest.len() {
                    rest.select_nth_unstable_by(n_sorted - i - 1, likeliest_first);
                }
                rest[..n_sorted - i].sort_unstable_by(likeliest_first);
            }
            let reached = top_p < 1.0 && so_far >= top_p * sum;
            if i > 0 && (reached || kept[i].p < least) {
                kept.truncate(i);
                return;
            }
            so_far += kept[i].p;
        }
    }

    fn pick(&mut self, kept: &[Candidate]) -> u32 {
        let sum: f64 = kept.iter().map(|c| c.p).sum();
        // 53 random bits: a number in 0..1.
        let mut left = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        for c in kept {
            left -= c.p;
            if left < 0.0 {
                return c.id;
            }
        }
        kept[kept.len() - 1].id
    }
}

/// By falling logit; of equals the lowest id first, so that the order is the same everywhere.
fn likeliest_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogProb {
    /// The token.
    pub id: TokenId,
    /// The natural logarithm of its probability under the model, before any penalty or filter.
    pub logprob: f64,
}

/// Log-probabilities of `token` and of the `n` likeliest tokens, likeliest first.
///
/// # Panics
///
/// If the token is no index of the logits.
pub fn log_probs(logits: &[f32], token: TokenId, n: usize) -> (LogProb, Vec<LogProb>) {
    let normalizer = crate::eval::log_normalizer(logits);
    let of = |id: u32| LogProb {
        id: TokenId(id),
        logprob: f64::from(logits[id as usize]) - normalizer,
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| {
        logits[*b as usize]
            .total_cmp(&logits[*a as usize])
            .then(a.cmp(b))
    };
    if n > 0 && n < ids.len() {
        ids.select_nth_unstable_by(n - 1, order);
    }
    ids.truncate(n);
    ids.sort_unstable_by(order);
    (of(token.0), ids.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplerOptions)) -> Sampler {
        let mut options = SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 7,
            ..SamplerOptions::default()
        };
        change(&mut options);
        Sampler::new(options, 5).unwrap()
    }

    const LOGITS: [f32; 5] = [1.0, 3.0, 3.0, -2.0, 0.5];

    fn seen(s: &mut Sampler, logits: &[f32]) -> [usize; 5] {
        let mut counts = [0; 5];
        for _ in 0..20_000 {
            counts[s.sample(logits).index()] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let mut s = Sampler::new(SamplerOptions::greedy(), 5).unwrap();
        assert_eq!(s.sample(&LOGITS), TokenId(1));
    }

    #[test]
    fn draws_follow_the_softmax_of_logits_over_temperature() {
        for temperature in [0.5, 1.0, 2.0] {
            let mut s = sampler(|o| o.temperature = temperature);
            let counts = seen(&mut s, &LOGITS);
            let weights = LOGITS.map(|l| f64::from(l / temperature).exp());
            let sum: f64 = weights.iter().sum();
            for (i, w) in weights.iter().enumerate() {
                let want = w / sum;
                let got = counts[i] as f64 / 20_000.0;
                // Five standard errors.
                let bound = 5.0 * (want * (1.0 - want) / 20_000.0).sqrt();
                assert!(
                    (got - want).abs() <= bound,
                    "{i}: {got}, want {want} at {temperature}"
                );
            }
        }
    }

    #[test]
    fn filters_keep_what_their_definitions_say() {
        for (name, s, want) in [
            ("top-k 1", sampler(|o| o.top_k = 1), &[1][..]),
            ("top-k 3", sampler(|o| o.top_k = 3), &[0, 1, 2]),
            // Tokens 1 and 2 have 0.439 each, token 0 0.059.
            ("top-p 0.4", sampler(|o| o.top_p = 0.4), &[1]),
            ("top-p 0.8", sampler(|o| o.top_p = 0.8), &[1, 2]),
            ("top-p 0.9", sampler(|o| o.top_p = 0.9), &[0, 1, 2]),
            // exp(-2) = 0.135, exp(-2.5) = 0.082.
            ("min-p 0.1", sampler(|o| o.min_p = 0.1), &[0, 1, 2]),
            ("min-p 0.08", sampler(|o| o.min_p = 0.08), &[0, 1, 2, 4]),
            ("min-p 1", sampler(|o| o.min_p = 1.0), &[1, 2]),
        ] {
            let mut s = s;
            let counts = seen(&mut s, &LOGITS);
            let got: Vec<usize> = (0..5).filter(|&i| counts[i] > 0).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn filters_of_large_vocabularies_keep_what_a_full_sort_keeps() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        let logits: Vec<f32> = (0..3000)
            .map(|_| ((rng.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 6.0)
            .collect();
        for (top_k, top_p, min_p) in [
            (0, 0.1, 0.0),
            (0, 0.9, 0.0),
            (0, 0.999_9, 0.0),
            (0, 0.0, 0.0),
            (0, 1.0, 0.5),
            (0, 1.0, 0.05),
            (0, 0.7, 0.1),
            (700, 0.8, 0.02),
            (1, 0.5, 0.5),
        ] {
            let options = SamplerOptions {
                top_k,
                top_p,
                min_p,
                ..SamplerOptions::default()
            };
            let temperature = f64::from(options.temperature);
            let mut s = Sampler::new(options, logits.len()).unwrap();
            // The definition: sort all, cut one after the other.
            let mut want: Vec<(f32, u32)> = (0..).zip(&logits).map(|(i, &l)| (l, i)).collect();
            want.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            want.truncate(if top_k == 0 { want.len() } else { top_k });
            let p = |l: f32| (f64::from(l - want[0].0) / temperature).exp();
            let sum: f64 = want.iter().map(|c| p(c.0)).sum();
            let before = |n: usize| want[..n].iter().map(|c| p(c.0)).sum::<f64>();
            let n = (1..want.len())
                .find(|&n| top_p < 1.0 && before(n) >= f64::from(top_p) * sum)
                .unwrap_or(want.len());
            let n = (1..n)
                .find(|&n| p(want[n].0) < f64::from(min_p))
                .unwrap_or(n);
            let want: Vec<u32> = want[..n].iter().map(|c| c.1).collect();
            s.sample(&logits);
            let got: Vec<u32> = s.candidates.iter().map(|c| c.id).collect();
            assert_eq!(got, want, "top-k {top_k}, top-p {top_p}, min-p {min_p}");
        }
    }

    #[test]
    fn the_smallest_temperature_takes_the_likeliest() {
        let mut s = sampler(|o| o.temperature = f32::MIN_POSITIVE);
        assert_eq!(
            seen(&mut s, &[1.0, 3.0, 2.999, -2.0, 0.5]),
            [0, 20_000, 0, 0, 0]
        );
    }

    #[test]
    fn a_seed_reproduces_and_another_does_not() {
        let draw = |seed| {
            let mut s = sampler(|o| o.seed = seed);
            (0..64).map(|_| s.sample(&LOGITS).0).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        // Fixed forever: the same on every machine and in every version.
        assert_eq!(
            draw(1)[..12],
            [2, 2, 1, 2, 1, 2, 4, 2, 1, 1, 2, 1],
            "{:?}",
            &draw(1)[..12]
        );
    }

    #[test]
    fn penalties_look_at_the_last_tokens_only() {
        let mut s = Sampler::new(
            SamplerOptions {
                temperature: 0.0,
                repeat_penalty: 2.0,
                presence_penalty: 0.25,
                frequency_penalty: 0.5,
                repeat_last_n: 2,
                ..SamplerOptions::default()
            },
            5,
        )
        .unwrap();
        for id in [3, 1, 1] {
            s.accept(TokenId(id));
        }
        // Token 3 has left the window; token 1 was seen twice.
        assert_eq!(s.penalized(3, -2.0), -2.0);
        assert_eq!(s.penalized(1, 3.0), 3.0 / 2.0 - 2.0 * 0.5 - 0.25);
        assert_eq!(s.sample(&LOGITS), TokenId(2));
        s.clear();
        assert_eq!(s.penalized(1, 3.0), 3.0);
    }

    #[test]
    fn options_out_of_range_name_the_flag() {
        for (flag, change) in [
            (
                "temp",
                (|o| o.temperature = -1.0) as fn(&mut SamplerOptions),
            ),
            ("temp", |o| o.temperature = f32::NAN),
            ("top-p", |o| o.top_p = 1.5),
            ("min-p", |o| o.min_p = -0.1),
            ("repeat-penalty", |o| o.repeat_penalty = 0.0),
            ("presence-penalty", |o| o.presence_penalty = f32::INFINITY),
            ("frequency-penalty", |o| o.frequency_penalty = f32::NAN),
        ] {
            let mut o = SamplerOptions::default();
            change(&mut o);
            let err = Sampler::new(o, 5).unwrap_err();
            assert_eq!(err.flag, flag);
            assert!(err.to_string().starts_with(&format!("--{flag} ")), "{err}");
        }
    }

    #[test]
    fn log_probs_are_those_of_the_raw_logits() {
        let (own, top) = log_probs(&LOGITS, TokenId(3), 2);
        assert_eq!([top[0].id, top[1].id], [TokenId(1), TokenId(2)]);
        let sum: f64 = LOGITS.iter().map(|&l| f64::from(l).exp()).sum();
        assert!((own.logprob - (-2.0 - sum.ln())).abs() < 1e-12);
    }
}
