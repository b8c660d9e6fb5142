//! Weights and KV tiles brought nearer before they are used. No result depends on it.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Has `bytes` brought into the first-level cache. (The hint for the second level reads at half the
/// speed on Zen 4.)
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn fetch_ahead(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
}

/// Has the bytes that lie 2 KiB after `block` brought into the first-level cache.
///
/// One row of activations reads weights as fast as memory gives them, and this would only cost; with
/// more rows the arithmetic of a block takes as long as its way from memory, and without this the two
/// follow each other instead of going together (4 rows, K = 8192: 10 GB/s without, 16 with it).
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn fetch_beyond<const B: usize>(block: &[u8; B]) {
    for line in 0..B.div_ceil(64) {
        // Past the end of the tiles it is a hint about nothing: it cannot fault.
        let at = block.as_ptr().wrapping_add(2048 + 64 * line);
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}

/// Has bytes `at..at + N` of `bytes`, or what lies there in memory, brought into the first-level cache.
///
/// Without a check of the length, which costs more than the hint: past the end it is a hint about nothing
/// and cannot fault.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn fetch_at<const N: usize>(bytes: &[u8], at: usize) {
    for line in 0..N.div_ceil(64) {
        let at = bytes.as_ptr().wrapping_add(at + 64 * line);
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
}
