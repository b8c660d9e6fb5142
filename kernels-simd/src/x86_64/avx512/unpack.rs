//! Tile blocks in registers: what Q4 and Q4H, and Q5 and Q6, share.

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_or_si512, _mm512_permutexvar_epi8,
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_sub_epi16,
    _mm512_sub_epi32,
};

use chaski_quant::tile::Q4_CODEBOOK;

use super::load::{load_u8x16, load_u8x64};

/// What is added to the codebook's values to make them unsigned bytes.
pub(super) const Q4_OFFSET: i16 = 32;

/// `Q4_CODEBOOK + 32`, in 0..=60, four times: a permutation by the low 6 bits of a byte then takes
/// the entry of its low 4 bits.
const CODEBOOK: [u8; 64] = {
    let mut out = [0; 64];
    let mut i = 0;
    while i < 64 {
        out[i] = (Q4_CODEBOOK[i % 16] as i16 + Q4_OFFSET) as u8;
        i += 1;
    }
    out
};

/// Codebook values + 32 of the 8 groups of 16 rows, from 4 vectors of nibbles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q4_bytes(quants: &[u8; 256]) -> [__m512i; 8] {
    let codebook = _mm512_broadcast_i32x4(load_u8x16(&CODEBOOK, 0));
    let mut bytes = nibbles(quants);
    for bytes in &mut bytes {
        *bytes = _mm512_shuffle_epi8(codebook, *bytes);
    }
    bytes
}

/// As [`q4_bytes`], by the permutation of 64 bytes, which needs no mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn q4_bytes_vbmi(quants: &[u8; 256]) -> [__m512i; 8] {
    let codebook = load_u8x64(&CODEBOOK, 0);
    let mut bytes = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        let v = load_u8x64(quants, 64 * j);
        bytes[j] = _mm512_permutexvar_epi8(v, codebook);
        bytes[4 + j] = _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(v), codebook);
    }
    bytes
}

/// Low nibbles of the 8 groups of 16 rows, from 4 vectors of nibbles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn nibbles(quants: &[u8; 256]) -> [__m512i; 8] {
    let nibble = _mm512_set1_epi8(15);
    let mut codes = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        let v = load_u8x64(quants, 64 * j);
        codes[j] = _mm512_and_si512(v, nibble);
        codes[4 + j] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), nibble);
    }
    codes
}

/// Scale and shift of 16 scale bytes of Q4 or Q4H.
pub(super) struct Q4Scales {
    /// Block scales.
    pub(super) scale: __m512,
    /// The shift, 0 or 1, as the low bit of each lane.
    shift: __m512i,
}

impl Q4Scales {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn new(scale_bytes: &[u8], at: usize) -> Self {
        let bytes = _mm512_cvtepu8_epi32(load_u8x16(scale_bytes, at));
        let scale = _mm512_sub_epi32(_mm512_srli_epi32::<1>(bytes), _mm512_set1_epi32(64));
        Self {
            scale: _mm512_cvtepi32_ps(scale),
            shift: _mm512_and_si512(bytes, _mm512_set1_epi32(1)),
        }
    }

    /// `shift - 32`, twice in each lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn offset(&self) -> __m512i {
        let twice = _mm512_or_si512(self.shift, _mm512_slli_epi32::<16>(self.shift));
        _mm512_sub_epi16(twice, _mm512_set1_epi16(Q4_OFFSET))
    }

    /// The shift in each byte.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn shift_bytes(&self) -> __m512i {
        let twice = _mm512_or_si512(self.shift, _mm512_slli_epi32::<16>(self.shift));
        _mm512_or_si512(twice, _mm512_slli_epi32::<8>(twice))
    }
}

/// Block scales of types whose scale byte is an `i8`, as floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn i8_scales(bytes: __m128i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}
