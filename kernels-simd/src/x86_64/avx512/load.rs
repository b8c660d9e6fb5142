//! Vectors in and out of slices: the only `unsafe` of this level. Each function cuts the slice
//! first, which checks the length; the compiler drops the check where it knows the length.
#![allow(unsafe_code)] // loads and stores

use std::arch::x86_64::{
    __m128, __m128i, __m256i, __m512, __m512i, _mm_loadu_si128, _mm_storeu_ps, _mm_storeu_si128,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm512_castps_si512, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps, _mm512_storeu_si512,
};

/// 64 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_u8x64(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..at + 64];
    // SAFETY: `bytes` is 64 readable bytes, and the load has no alignment requirement.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// `bytes = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_u8x64(bytes: &mut [u8; 64], v: __m512i) {
    // SAFETY: `bytes` is 64 writable bytes, and the store has no alignment requirement.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}

/// 32 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_u8x32(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` is 32 readable bytes, and the load has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 16 bytes from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_u8x16(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 16];
    // SAFETY: `bytes` is 16 readable bytes, and the load has no alignment requirement.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// 16 little-endian floats from `bytes[at]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_f32x16_le(bytes: &[u8], at: usize) -> __m512 {
    let bytes = &bytes[at..at + 64];
    // SAFETY: `bytes` is 64 readable bytes, and the load has no alignment requirement.
    unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
}

/// 16 floats from `x[at]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_f32x16(x: &[f32], at: usize) -> __m512 {
    let x = &x[at..at + 16];
    // SAFETY: `x` is 16 readable floats, and the load has no alignment requirement.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The first 16 floats of `x`, or all of them and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_f32_padded(x: &[f32]) -> __m512 {
    // SAFETY: lanes past the end of `x` are masked out, and masked lanes are not read.
    unsafe { _mm512_maskz_loadu_ps(lanes_below(x.len()), x.as_ptr()) }
}

/// The first lanes of `v` into all of `x`, which has at most 16 elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_f32_padded(x: &mut [f32], v: __m512) {
    // SAFETY: lanes past the end of `x` are masked out, and masked lanes are not written.
    unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), lanes_below(x.len()), v) }
}

/// A mask of the lanes `0..n`; all of them where `n >= 16`.
#[inline]
pub(super) const fn lanes_below(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// `x[at..at + 16] = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_f32x16(x: &mut [f32], at: usize, v: __m512) {
    let x = &mut x[at..at + 16];
    // SAFETY: `x` is 16 writable floats, and the store has no alignment requirement.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
}

/// `x = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_i32x16(x: &mut [i32; 16], v: __m512i) {
    // SAFETY: `x` is 64 writable bytes, and the store has no alignment requirement.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}

/// 16 pairs of 16-bit sums; the first of `x`, or all of them and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_pairs_padded(x: &[[i16; 2]]) -> __m512i {
    // SAFETY: lanes past the end of `x` are masked out, and masked lanes are not read.
    unsafe { _mm512_maskz_loadu_epi32(lanes_below(x.len()), x.as_ptr().cast()) }
}

/// Codes `4 g .. 4 g + 4` in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn broadcast_codes(codes: &[i8; 32], g: usize) -> __m512i {
    let four = [
        codes[4 * g],
        codes[4 * g + 1],
        codes[4 * g + 2],
        codes[4 * g + 3],
    ];
    _mm512_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned)))
}

/// A pair of 16-bit numbers in every lane, the first one low.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn broadcast_pair(pair: [i16; 2]) -> __m512i {
    let low = i32::from(pair[0].cast_unsigned());
    _mm512_set1_epi32(i32::from(pair[1]) << 16 | low)
}

/// `x[at]` in every lane. By way of a float: of an integer the compiler makes a load and a broadcast out of a register,
/// which costs a slot of those that multiply.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn broadcast_i32(x: &[i32; 16], at: usize) -> __m512i {
    _mm512_castps_si512(_mm512_set1_ps(f32::from_bits(x[at].cast_unsigned())))
}

/// `x[at..at + 16] = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_i8x16(x: &mut [i8], at: usize, v: __m128i) {
    let x = &mut x[at..at + 16];
    // SAFETY: `x` is 16 writable bytes, and the store has no alignment requirement.
    unsafe { _mm_storeu_si128(x.as_mut_ptr().cast(), v) }
}

/// `x = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_f32x4(x: &mut [f32; 4], v: __m128) {
    // SAFETY: `x` is 16 writable bytes, and the store has no alignment requirement.
    unsafe { _mm_storeu_ps(x.as_mut_ptr(), v) }
}

/// `codes = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_i8x32(codes: &mut [i8; 32], v: __m256i) {
    // SAFETY: `codes` is 32 writable bytes, and the store has no alignment requirement.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), v) }
}

/// `pairs = v`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_pairs4(pairs: &mut [[i16; 2]; 4], v: __m128i) {
    // SAFETY: `pairs` is 16 writable bytes, and the store has no alignment requirement.
    unsafe { _mm_storeu_si128(pairs.as_mut_ptr().cast(), v) }
}
