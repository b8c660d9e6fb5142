//! Blocks of 32 with one f16 scale `d`: Q4_0, Q5_0, Q8_0; with a min `m` as well: Q4_1, Q5_1.
//!
//! Byte `j` of the nibbles holds weight `j` in its low half and weight `j + 16` in its high one. Bit `i` of the
//! little-endian word of fifth bits belongs to weight `i`.

use super::f16_at;

/// `d[2] nibbles[16]`
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (j, byte) in block[2..].iter().enumerate() {
        out[j] = f32::from((byte & 0xf) as i8 - 8) * d;
        out[j + 16] = f32::from((byte >> 4) as i8 - 8) * d;
    }
}

/// `d[2] m[2] nibbles[16]`
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (j, byte) in block[4..].iter().enumerate() {
        out[j] = f32::from(byte & 0xf) * d + m;
        out[j + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// `d[2] fifth bits[4] nibbles[16]`
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (j, &byte) in block[6..].iter().enumerate() {
        let (low, upper) = five_bits(byte, high, j);
        out[j] = f32::from(low as i8 - 16) * d;
        out[j + 16] = f32::from(upper as i8 - 16) * d;
    }
}

/// `d[2] m[2] fifth bits[4] nibbles[16]`
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (j, &byte) in block[8..].iter().enumerate() {
        let (low, upper) = five_bits(byte, high, j);
        out[j] = f32::from(low) * d + m;
        out[j + 16] = f32::from(upper) * d + m;
    }
}

/// `d[2] codes[32]`
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (x, &code) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(code as i8) * d;
    }
}

/// Codes of weights `j` and `j + 16`, in `0..=31`.
fn five_bits(byte: u8, high: u32, j: usize) -> (u8, u8) {
    let bit = |i: usize| ((high >> i) & 1) as u8;
    (byte & 0xf | bit(j) << 4, byte >> 4 | bit(j + 16) << 4)
}
