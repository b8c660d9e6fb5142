//! Weights and KV tiles brought nearer before they are used. No result depends on it.

use std::{
    arch::x86_64::{__cpuid, _MM_HINT_T0, _mm_prefetch},
    sync::OnceLock,
};

/// Bytes ahead of the block at hand that are asked for, with one row of activations and with more; 0: none.
///
/// 300 MiB read by the Q4 kernel on one thread (`docs/performance.md`):
///
/// ```text
///                     one row                            more rows
/// Zen 4               0: 26 GB/s, 2048: 23               0: 10 to 16 GB/s, 2048: 16 to 18
/// Zen 5               0: 29, 2048: 32, 8192: 38          as one row
/// Emerald Rapids      0: 8.5, 4096: 13                   as one row
/// ```
///
/// The memory of a server is far away, and what a CPU fetches by itself ends with each page of 4 KiB.
#[derive(Clone, Copy)]
struct Distances {
    one: usize,
    more: usize,
}

impl Distances {
    const fn of(vendor: [u8; 12], family: u32) -> Self {
        let (one, more) = match (&vendor, family) {
            // Zen 4 and before: as fast as memory gives without being asked, and asking would only cost; with more rows
            // the arithmetic of a block takes as long as its way, and without asking one follows the other.
            (b"AuthenticAMD" | b"HygonGenuine", ..0x1a) => (0, 2048),
            (b"AuthenticAMD", _) => (8192, 8192),
            _ => (4096, 4096),
        };
        Self { one, more }
    }

    /// This CPU's.
    fn here() -> Self {
        static HERE: OnceLock<Distances> = OnceLock::new();
        *HERE.get_or_init(|| {
            let (vendor, version) = (__cpuid(0), __cpuid(1).eax);
            let mut name = [0; 12];
            for (to, part) in name
                .as_chunks_mut()
                .0
                .iter_mut()
                .zip([vendor.ebx, vendor.edx, vendor.ecx])
            {
                *to = part.to_le_bytes();
            }
            // The extended family counts from 0xf on.
            let family = (version >> 8 & 0xf)
                + if version >> 8 & 0xf == 0xf {
                    version >> 20 & 0xff
                } else {
                    0
                };
            Self::of(name, family)
        })
    }
}

/// How many bytes ahead a pass over `rows` rows of activations asks for weights, see [`fetch_beyond`].
pub(super) fn distance(rows: usize) -> usize {
    let d = Distances::here();
    if rows > 1 { d.more } else { d.one }
}

/// Has `bytes` brought into the first-level cache. (The hint for the second level reads at half the
/// speed on Zen 4.)
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn fetch_ahead(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
}

/// Has the bytes that lie `distance` bytes after `block` brought into the first-level cache; 0: nothing.
#[inline]
#[target_feature(enable = "sse")]
pub(super) fn fetch_beyond<const B: usize>(block: &[u8; B], distance: usize) {
    if distance == 0 {
        return;
    }
    for line in 0..B.div_ceil(64) {
        // Past the end of the tiles it is a hint about nothing: it cannot fault.
        let at = block.as_ptr().wrapping_add(distance + 64 * line);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_told_by_its_vendor_and_family() {
        let of = |vendor: &[u8; 12], family| {
            let d = Distances::of(*vendor, family);
            (d.one, d.more)
        };
        assert_eq!(of(b"AuthenticAMD", 0x19), (0, 2048));
        assert_eq!(of(b"AuthenticAMD", 0x1a), (8192, 8192));
        assert_eq!(of(b"HygonGenuine", 0x18), (0, 2048));
        assert_eq!(of(b"GenuineIntel", 6), (4096, 4096));
        assert_eq!(of(&[0; 12], 0), (4096, 4096));
    }

    #[test]
    fn one_row_has_a_distance_of_its_own() {
        let here = Distances::here();
        assert_eq!(distance(1), here.one);
        assert_eq!(distance(2), here.more);
        assert_eq!(distance(16), here.more);
    }
}
