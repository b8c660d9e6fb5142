//! What the machine can do at this moment: reading memory, multiplying integers.
//!
//! A share of these tells more than tokens per second: it is what a faster program could still win.

use std::{
    hint::black_box,
    ops::Range,
    time::{Duration, Instant},
};

use chaski_kernels_simd::prefetch;

use super::peak::Peak;
use crate::backend::cpu::{Team, TeamError};

/// A probe is repeated for so long, and at least [`MIN_ROUNDS`] times; the best round counts, since
/// whatever disturbs it only makes it slower.
const PROBE_TIME: Duration = Duration::from_millis(300);
const MIN_ROUNDS: usize = 3;
const MAX_ROUNDS: usize = 40;

/// Seconds of the best round of `round`.
fn best(mut round: impl FnMut() -> Result<(), TeamError>) -> Result<f64, TeamError> {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    for i in 0..MAX_ROUNDS {
        if i >= MIN_ROUNDS && begin.elapsed() > PROBE_TIME {
            break;
        }
        let from = Instant::now();
        round()?;
        best = best.min(from.elapsed().as_secs_f64());
    }
    Ok(best.max(1e-9))
}

/// Bytes ahead that the second way of reading asks for; beyond a page, where CPUs stop by themselves.
const AHEAD: usize = 8192;

/// 10^9 bytes per second at which the team reads `bytes`, each thread one part of it from its start
/// to its end: the better of reading alone, and reading with lines asked for ahead. Which one that is
/// differs from CPU to CPU by a third either way.
///
/// # Errors
///
/// As [`Team::run`].
pub(super) fn read_bandwidth(team: &mut Team, bytes: &[u8]) -> Result<f64, TeamError> {
    let n = team.n_threads();
    let mut seconds = |sum: fn(&[u8]) -> u64| {
        best(|| {
            team.run(|member| {
                black_box(sum(&bytes[part(bytes.len(), n, member.index())]));
            })
        })
    };
    let best = seconds(sum::<false>)?.min(seconds(sum::<true>)?);
    Ok(bytes.len() as f64 / best / 1e9)
}

/// Part `i` of `n` of `len` bytes, cut at cache lines.
fn part(len: usize, n: usize, i: usize) -> Range<usize> {
    let at = |i: usize| {
        if i == n {
            len
        } else {
            (len / n * i).next_multiple_of(128).min(len)
        }
    };
    at(i)..at(i + 1)
}

/// A sum to which every byte contributes, so that each must be read. Wide enough to be limited by
/// memory even with the vectors that every processor of an architecture has.
fn sum<const FETCH: bool>(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; 16];
    let (lines, rest) = bytes.as_chunks::<128>();
    for (i, line) in lines.iter().enumerate() {
        if FETCH {
            prefetch(bytes, i * 128 + AHEAD);
            prefetch(bytes, i * 128 + AHEAD + 64);
        }
        for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let tail = rest.iter().map(|&b| u64::from(b));
    lanes.into_iter().chain(tail).fold(0, u64::wrapping_add)
}

/// 10^9 products of 8-bit integers, added up, per second, with the team's threads all at once;
/// `None` where there is no loop for the level.
///
/// # Errors
///
/// As [`Team::run`].
pub(super) fn integer_peak(team: &mut Team, level: &str) -> Result<Option<f64>, TeamError> {
    let Some(peak) = Peak::of(level) else {
        return Ok(None);
    };
    let n = team.n_threads() as f64;
    let seconds = best(|| {
        team.run(|_| {
            black_box(peak.run());
        })
    })?;
    Ok(Some(n * peak.products() as f64 / seconds / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole() {
        for (len, n) in [(0, 1), (1, 3), (1000, 1), (1000, 3), (127, 2), (4096, 16)] {
            let parts: Vec<Range<usize>> = (0..n).map(|i| part(len, n, i)).collect();
            assert_eq!(parts[0].start, 0);
            assert_eq!(parts[n - 1].end, len);
            assert!(
                parts.windows(2).all(|w| w[0].end == w[1].start),
                "{parts:?}"
            );
            assert!(parts.iter().all(|p| p.start <= p.end), "{parts:?}");
        }
    }

    #[test]
    fn every_byte_counts() {
        let mut bytes = vec![3_u8; 300];
        let before = sum::<false>(&bytes);
        assert_eq!(sum::<true>(&bytes), before);
        for i in 0..bytes.len() {
            bytes[i] += 1;
            assert_ne!(sum::<false>(&bytes), before, "byte {i}");
            assert_eq!(sum::<true>(&bytes), sum::<false>(&bytes));
            bytes[i] -= 1;
        }
    }

    #[test]
    fn probes_give_rates() {
        let mut team = Team::new(2, 2).unwrap();
        assert!(read_bandwidth(&mut team, &[1; 1 << 20]).unwrap() > 0.0);
        for kernels in chaski_kernels_simd::Kernels::available() {
            let peak = integer_peak(&mut team, kernels.name()).unwrap();
            let portable = kernels.name().starts_with("scalar");
            assert_eq!(peak.is_none(), portable, "{}", kernels.name());
            assert!(peak.is_none_or(|p| p > 0.0));
        }
    }
}
