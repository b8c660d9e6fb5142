//! Tile blocks in registers: the codes of Q3, and what Q3, Q4 and Q4H, and Q5 and Q6, share.

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_or_si512, _mm512_permutexvar_epi8,
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_sub_epi16,
    _mm512_sub_epi32, _mm512_ternarylogic_epi32,
};

use chaski_quant::tile::{Q3_CODEBOOK, Q4_CODEBOOK};

use super::{
    load::{load_u8x16, load_u8x64},
    matmul_q5::OR_AND,
};

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

/// The same for Q3.
pub(super) const Q3_OFFSET: i16 = 16;

/// `Q3_CODEBOOK + 16`, in 0..=28, by the bits 0 to 2 of an index of six bits.
const CODEBOOK3: [u8; 64] = {
    let mut out = [0; 64];
    let mut i = 0;
    while i < 64 {
        out[i] = (Q3_CODEBOOK[i % 8] as i16 + Q3_OFFSET) as u8;
        i += 1;
    }
    out
};

/// The same by the bits 0, 1 and 3.
const CODEBOOK3_013: [u8; 64] = {
    let mut out = [0; 64];
    let mut i = 0;
    while i < 64 {
        out[i] = CODEBOOK3[i & 3 | i >> 1 & 4];
        i += 1;
    }
    out
};

/// `a & b | !a & c`.
const SELECT: i32 = 0xca;

/// Codebook values + 16 of the 8 groups of 16 rows, from 3 vectors.
///
/// Bit 2 of group 3's codes comes to bit 2 of an index, that of group 7's to bit 3, both by one shift:
/// each has a table that ignores the other's bit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q3_bytes(quants: &[u8; 192]) -> [__m512i; 8] {
    let codebook = _mm512_broadcast_i32x4(load_u8x16(&CODEBOOK3, 0));
    let codebook_013 = _mm512_broadcast_i32x4(load_u8x16(&CODEBOOK3_013, 0));
    let (three, two) = (_mm512_set1_epi8(7), _mm512_set1_epi8(3));
    let mut v = [_mm512_setzero_si512(); 3];
    let mut bytes = [_mm512_setzero_si512(); 8];
    for j in 0..3 {
        v[j] = load_u8x64(quants, 64 * j);
        let high = _mm512_srli_epi16::<3>(v[j]);
        bytes[j] = _mm512_shuffle_epi8(codebook, _mm512_and_si512(v[j], three));
        bytes[4 + j] = _mm512_shuffle_epi8(codebook, _mm512_and_si512(high, three));
    }
    let third = _mm512_and_si512(_mm512_srli_epi16::<4>(v[2]), _mm512_set1_epi8(12));
    for (g, v, codebook) in [(3, v[0], codebook), (7, v[1], codebook_013)] {
        let index = _mm512_ternarylogic_epi32::<OR_AND>(third, _mm512_srli_epi16::<6>(v), two);
        bytes[g] = _mm512_shuffle_epi8(codebook, index);
    }
    bytes
}

/// As [`q3_bytes`], by the permutation of 64 bytes, which needs no masks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn q3_bytes_vbmi(quants: &[u8; 192]) -> [__m512i; 8] {
    let codebook = load_u8x64(&CODEBOOK3, 0);
    let codebook_013 = load_u8x64(&CODEBOOK3_013, 0);
    let two = _mm512_set1_epi8(3);
    let mut v = [_mm512_setzero_si512(); 3];
    let mut bytes = [_mm512_setzero_si512(); 8];
    for j in 0..3 {
        v[j] = load_u8x64(quants, 64 * j);
        bytes[j] = _mm512_permutexvar_epi8(v[j], codebook);
        bytes[4 + j] = _mm512_permutexvar_epi8(_mm512_srli_epi16::<3>(v[j]), codebook);
    }
    let third = _mm512_srli_epi16::<4>(v[2]);
    for (g, v, codebook) in [(3, v[0], codebook), (7, v[1], codebook_013)] {
        let index = _mm512_ternarylogic_epi32::<SELECT>(two, _mm512_srli_epi16::<6>(v), third);
        bytes[g] = _mm512_permutexvar_epi8(index, codebook);
    }
    bytes
}

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

/// Scale and shift of 16 scale bytes of Q3, Q4 or Q4H.
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

    /// `shift - bytes_offset`, twice in each lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn offset(&self, bytes_offset: i16) -> __m512i {
        let twice = _mm512_or_si512(self.shift, _mm512_slli_epi32::<16>(self.shift));
        _mm512_sub_epi16(twice, _mm512_set1_epi16(bytes_offset))
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
