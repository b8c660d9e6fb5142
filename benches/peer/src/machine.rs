//! What the machine can do at the moment.

use std::{hint::black_box, thread, time::Instant};

/// Bytes that are read: beyond the caches of all but the largest servers.
const BYTES: usize = 512 << 20;

/// 10^9 bytes a second that `n_threads` threads read from memory together; the best of some passes.
///
/// The speed of an answer is at most this over the bytes of the weights.
pub(crate) fn read_bandwidth(n_threads: usize) -> f64 {
    let data = vec![1_u64; BYTES / 8];
    let share = data.len().div_ceil(n_threads.max(1));
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let begin = Instant::now();
        thread::scope(|scope| {
            for part in data.chunks(share) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        best = best.min(begin.elapsed().as_secs_f64());
    }
    BYTES as f64 / best / 1e9
}

/// Several sums at once, so that the loads do not wait for an addition.
fn sum(part: &[u64]) -> u64 {
    let mut sums = [0_u64; 16];
    let (chunks, rest) = part.as_chunks::<16>();
    for chunk in chunks {
        for (s, x) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*x);
        }
    }
    sums.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read() {
        for n in [0, 1, 15, 16, 17, 1000] {
            assert_eq!(sum(&vec![1; n]), n as u64);
        }
    }
}
