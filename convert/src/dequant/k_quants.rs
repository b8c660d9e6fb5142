//! The K-quants: superblocks of 256 with an f16 scale `d`, for some a min scale `dmin`, and quantised scales of
//! sub-blocks of 16 or 32 under them. A sub-block's scale is `d * scale`, rounded, before a code meets it.

use super::f16_at;

/// `scales and mins[16] codes[64] d[2] dmin[2]`: 16 sub-blocks of 16; scale in the low, min in the high half of a
/// byte.
///
/// Byte `l` of half `h` of the codes holds weights `128 h + 32 j + l` in bits `2j` and `2j + 1`.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (s, (out, scale)) in out
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(scales)
        .enumerate()
    {
        let (h, j, part) = (s / 8, s % 8 / 2, s % 2);
        let dl = d * f32::from(scale & 0xf);
        let ml = dmin * f32::from(scale >> 4);
        for (x, byte) in out.iter_mut().zip(&codes[32 * h + 16 * part..]) {
            *x = dl * f32::from(byte >> (2 * j) & 3) - ml;
        }
    }
}

/// `third bits[32] low bits[64] scales[12] d[2]`: 16 sub-blocks of 16 with scales of 6 bits, stored plus 32.
///
/// The low two bits lie as in Q2_K. Bit `4 h + j` of byte `l` of the third bits belongs to weight
/// `128 h + 32 j + l`; where it is clear, 4 is subtracted.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (third, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = f16_at(block, 108);
    for (s, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (h, j, part) = (s / 8, s % 8 / 2, s % 2);
        let low = if s < 8 {
            scales[s] & 0xf
        } else {
            scales[s - 8] >> 4
        };
        let upper = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
        let dl = d * f32::from((low | upper << 4) as i8 - 32);
        let bytes = codes[32 * h + 16 * part..].iter().zip(&third[16 * part..]);
        for (x, (byte, third)) in out.iter_mut().zip(bytes) {
            let offset = if third >> (4 * h + j) & 1 == 1 { 0 } else { 4 };
            *x = dl * f32::from((byte >> (2 * j) & 3) as i8 - offset);
        }
    }
}

/// `d[2] dmin[2] scales and mins[12] nibbles[128]`: 8 sub-blocks of 32. Byte `l` of quarter `j` of the nibbles holds
/// weights `64 j + l` and `64 j + 32 + l`.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&block[4..16], s);
        let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
        for (x, byte) in out.iter_mut().zip(&block[16 + 32 * (s / 2)..]) {
            *x = dl * f32::from(byte >> (4 * (s % 2)) & 0xf) - ml;
        }
    }
}

/// `d[2] dmin[2] scales and mins[12] fifth bits[32] nibbles[128]`: as Q4_K; bit `s` of byte `l` of the fifth bits
/// belongs to weight `l` of sub-block `s`.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&block[4..16], s);
        let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
        let bytes = block[48 + 32 * (s / 2)..].iter().zip(&block[16..48]);
        for (x, (byte, fifth)) in out.iter_mut().zip(bytes) {
            let code = byte >> (4 * (s % 2)) & 0xf | (fifth >> s & 1) << 4;
            *x = dl * f32::from(code) - ml;
        }
    }
}

/// Scale and min of sub-block `s`, 6 bits each: those of 0..4 in the low bits of bytes `s` and `s + 4`, the low
/// nibbles of those of 4..8 in byte `s + 4`, their upper bits above the others.
fn scale_min(packed: &[u8], s: usize) -> (u8, u8) {
    if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        let low = packed[s + 4];
        (
            low & 0xf | packed[s - 4] >> 6 << 4,
            low >> 4 | packed[s] >> 6 << 4,
        )
    }
}

/// `nibbles[128] upper bits[64] scales[16] d[2]`: 16 sub-blocks of 16 with scales of 8 bits, codes stored plus 32.
///
/// Of half `h`: weights `32 j + l` have their low bits in byte `32 (j % 2) + l` of its 64 nibble bytes, in the low
/// half for `j < 2`, and their upper ones in bits `2j` and `2j + 1` of byte `l` of its 32 upper bytes.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (nibbles, upper, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_at(block, 208);
    for (s, (out, &scale)) in out
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(scales)
        .enumerate()
    {
        let (h, j, part) = (s / 8, s % 8 / 2, s % 2);
        let dl = d * f32::from(scale as i8);
        let low = &nibbles[64 * h + 32 * (j % 2) + 16 * part..];
        let bytes = low.iter().zip(&upper[32 * h + 16 * part..]);
        for (x, (low, upper)) in out.iter_mut().zip(bytes) {
            let code = low >> (4 * (j / 2)) & 0xf | (upper >> (2 * j) & 3) << 4;
            *x = dl * f32::from(code as i8 - 32);
        }
    }
}
