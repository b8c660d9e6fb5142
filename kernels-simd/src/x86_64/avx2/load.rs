//! Vectors in and out of slices: the only `unsafe` of the levels of 256 bits. Each function cuts the
//! slice first, which checks the length; the compiler drops the check where it knows the length.
#![allow(unsafe_code)] // loads and stores, an empty `asm!`

use std::arch::{
    asm,
    x86_64::{
        __m128i, __m256, __m256i, _mm_loadl_epi64, _mm_loadu_si128, _mm_storeu_si128,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_storeu_ps,
        _mm256_storeu_si256,
    },
};

/// 32 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_u8x32(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` is 32 readable bytes, and the load has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 32 bytes from `bytes[at]`, read before those of the next call: the compiler's own order of loads
/// has been seen to run backwards through a block, which the prefetcher of the memory cannot follow.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_in_order(bytes: &[u8], at: usize) -> __m256i {
    keep_order::<2>(load_u8x32(bytes, at))
}

/// 16 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_u8x16(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 16];
    // SAFETY: `bytes` is 16 readable bytes, and the load has no alignment requirement.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// 8 bytes from `bytes[at]`, in the low half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_u8x8(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 8];
    // SAFETY: `bytes` is 8 readable bytes; the load reads 8 and has no alignment requirement.
    unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) }
}

/// 8 little-endian floats from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_f32x8_le(bytes: &[u8], at: usize) -> __m256 {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` is 32 readable bytes, and the load has no alignment requirement.
    unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) }
}

/// 8 floats from `x[at]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_f32x8(x: &[f32], at: usize) -> __m256 {
    let x = &x[at..at + 8];
    // SAFETY: `x` is 8 readable floats, and the load has no alignment requirement.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// `x[at..at + 8] = v`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_f32x8(x: &mut [f32], at: usize, v: __m256) {
    let x = &mut x[at..at + 8];
    // SAFETY: `x` is 8 writable floats, and the store has no alignment requirement.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}

/// All 32 bytes of `bytes`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_i8x32(bytes: &mut [i8; 32], v: __m256i) {
    // SAFETY: `bytes` is 32 writable bytes, and the store has no alignment requirement.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), v) }
}

/// The 8 lanes of `v`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn to_i32x8(v: __m256i) -> [i32; 8] {
    let mut out = [0; 8];
    // SAFETY: `out` is 32 writable bytes, and the store has no alignment requirement.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
    out
}

/// `bytes[at..at + 16] = v`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_u8x16(bytes: &mut [u8], at: usize, v: __m128i) {
    let bytes = &mut bytes[at..at + 16];
    // SAFETY: `bytes` is 16 writable bytes, and the store has no alignment requirement.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), v) }
}

/// Codes `4 g .. 4 g + 4` in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn broadcast_codes(codes: &[i8; 32], g: usize) -> __m256i {
    let four = [
        codes[4 * g],
        codes[4 * g + 1],
        codes[4 * g + 2],
        codes[4 * g + 3],
    ];
    _mm256_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned)))
}

/// A pair of 16-bit numbers in every lane, the first one low.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn broadcast_pair(pair: [i16; 2]) -> __m256i {
    let low = i32::from(pair[0].cast_unsigned());
    _mm256_set1_epi32(i32::from(pair[1]) << 16 | low)
}

/// `v`, which the compiler takes for unknown and keeps in this place of the order of operations.
///
/// Without such places it gathers the loads of a whole block in front of it, far more than there
/// are registers, and moves them to the stack and back. One row (`N`) needs none.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::x86_64) fn keep_order<const N: usize>(mut v: __m256i) -> __m256i {
    if N > 1 {
        // SAFETY: no instruction at all; the register stays as it is.
        unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    }
    v
}

/// As [`keep_order`], of floats; up to four sums (`N`) need none.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn keep_order_f32<const N: usize>(mut v: __m256) -> __m256 {
    if N > 4 {
        // SAFETY: no instruction at all; the register stays as it is.
        unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    }
    v
}
