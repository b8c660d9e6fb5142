//! x86-64.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avxvnni;
mod fetch;
pub(crate) mod fma;

/// Asks for the line of the first byte.
#[inline]
#[target_feature(enable = "sse")]
pub(crate) fn prefetch(bytes: &[u8]) {
    fetch::fetch_ahead(&bytes[..bytes.len().min(1)]);
}
