//! One row of a tile as numbers: its four bytes of each vector, gathered, then 16 weights at a time.

use std::arch::x86_64::{
    __m128i, _mm_add_epi8, _mm_and_si128, _mm_or_si128, _mm_set1_epi8, _mm_set1_epi32,
    _mm_setr_epi32, _mm_shuffle_epi8, _mm_sllv_epi32, _mm_srli_epi16, _mm_srli_si128,
    _mm_srlv_epi32, _mm_sub_epi8, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_mul_ps,
    _mm256_mullo_epi32, _mm256_set1_epi32, _mm256_set1_ps,
};

use chaski_quant::{
    BLOCK, QuantType, TILE_ROWS, TensorLayout, scalar,
    tile::{Q3_CODEBOOK, Q4_CODEBOOK, q4_scale, scales, scales_per_block},
};

use super::load::{load_u8x16, store_f32x8};

/// Weights of half a block.
const HALF: usize = BLOCK / 2;

#[inline]
fn four_bytes(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The four bytes of row `row` in each of the 64-byte vectors `first..first + 4`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn gather(quants: &[u8], first: usize, row: usize) -> __m128i {
    let bytes = |j: usize| four_bytes(quants, (first + j) * 64 + row * 4);
    _mm_setr_epi32(bytes(0), bytes(1), bytes(2), bytes(3))
}

/// Bits `at` (a mask of each byte) of the bits of row `row` in the vector at `quants[from]`, with
/// lane `j` moved by `left[j]` and then back by `right[j]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn upper_bits(
    quants: &[u8],
    from: usize,
    row: usize,
    left: __m128i,
    right: __m128i,
    at: i8,
) -> __m128i {
    let bits = _mm_set1_epi32(four_bytes(quants, from + row * 4));
    _mm_and_si128(
        _mm_srlv_epi32(_mm_sllv_epi32(bits, left), right),
        _mm_set1_epi8(at),
    )
}

/// The integer values of row `row`'s weights 0..16 and 16..32; see
/// [`chaski_quant::tile::values`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values(qtype: QuantType, block: &[u8], row: usize) -> [__m128i; 2] {
    let quants = &block[scales_per_block(qtype) * TILE_ROWS..];
    if qtype == QuantType::Q8 {
        return [gather(quants, 0, row), gather(quants, 4, row)];
    }
    if qtype == QuantType::Q3 {
        let [a, b, c] = [0, 1, 2].map(|v| four_bytes(quants, 64 * v + 4 * row));
        let (two, one) = (0x0303_0303, 0x0404_0404);
        let codes = [
            _mm_setr_epi32(a, b, c, a >> 6 & two | c >> 4 & one),
            _mm_setr_epi32(a >> 3, b >> 3, c >> 3, b >> 6 & two | c >> 5 & one),
        ];
        let shift = _mm_set1_epi8(q4_scale(block[row]).1);
        let mut codebook = [0; 16];
        codebook[..8].copy_from_slice(&Q3_CODEBOOK.map(i8::cast_unsigned));
        let codebook = load_u8x16(&codebook, 0);
        let value = |codes| {
            let codes = _mm_and_si128(codes, _mm_set1_epi8(7));
            _mm_add_epi8(_mm_shuffle_epi8(codebook, codes), shift)
        };
        return [value(codes[0]), value(codes[1])];
    }
    let (v, nibble) = (gather(quants, 0, row), _mm_set1_epi8(15));
    let nibbles = [
        _mm_and_si128(v, nibble),
        _mm_and_si128(_mm_srli_epi16::<4>(v), nibble),
    ];
    let (none, wider) = (_mm_setr_epi32(0, 0, 0, 0), BLOCK / 2 * TILE_ROWS);
    let (bits, offset) = match qtype {
        QuantType::Q5 => {
            let low = upper_bits(quants, wider, row, _mm_setr_epi32(4, 3, 2, 1), none, 0x10);
            let high = upper_bits(quants, wider, row, none, _mm_setr_epi32(0, 1, 2, 3), 0x10);
            ([low, high], 16)
        }
        QuantType::Q6 => {
            let (left, right) = (_mm_setr_epi32(4, 2, 0, 0), _mm_setr_epi32(0, 0, 0, 2));
            let low = upper_bits(quants, wider, row, left, right, 0x30);
            let high = upper_bits(quants, wider + 64, row, left, right, 0x30);
            ([low, high], 32)
        }
        _ => {
            let codebook = load_u8x16(&Q4_CODEBOOK.map(i8::cast_unsigned), 0);
            let second = if qtype == QuantType::Q4H {
                TILE_ROWS
            } else {
                0
            };
            let shift = |at: usize| _mm_set1_epi8(q4_scale(block[at + row]).1);
            let value = |codes, at| _mm_add_epi8(_mm_shuffle_epi8(codebook, codes), shift(at));
            return [value(nibbles[0], 0), value(nibbles[1], second)];
        }
    };
    let value = |h: usize| _mm_sub_epi8(_mm_or_si128(nibbles[h], bits[h]), _mm_set1_epi8(offset));
    [value(0), value(1)]
}

/// See [`chaski_quant::scalar::dequantize_row`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn dequantize_row(layout: &TensorLayout, tile: &[u8], row: usize, out: &mut [f32]) {
    let qtype = layout.qtype();
    if !qtype.is_quantized() {
        // Strided numbers, read once: nothing for vectors to do.
        return scalar::dequantize_row(layout, tile, row, out);
    }
    let row_scale = _mm256_set1_ps(f32::from_bits(four_bytes(tile, 4 * row).cast_unsigned()));
    let blocks = tile[qtype.tile_header_bytes()..].chunks_exact(qtype.tile_block_bytes());
    for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
        let mut numbers = [0.0; BLOCK];
        let parts = values(qtype, block, row)
            .into_iter()
            .zip(scales(qtype, block, row));
        for (h, (values, bs)) in parts.enumerate() {
            for (i, values) in [values, _mm_srli_si128::<8>(values)]
                .into_iter()
                .enumerate()
            {
                let bs = _mm256_set1_epi32(i32::from(bs));
                let product = _mm256_mullo_epi32(_mm256_cvtepi8_epi32(values), bs);
                let weights = _mm256_mul_ps(_mm256_cvtepi32_ps(product), row_scale);
                store_f32x8(&mut numbers, h * HALF + 8 * i, weights);
            }
        }
        out.copy_from_slice(&numbers[..out.len()]);
    }
}
