//! Codes and scales in and out of the bytes of a tile block.
//!
//! The *code* of a weight is the unsigned number that the bits hold:
//!
//! | type | code | value |
//! |---|---|---|
//! | Q3 | 0..=7 | `Q3_CODEBOOK[code] + shift` |
//! | Q4, Q4H | 0..=15 | `Q4_CODEBOOK[code] + shift` |
//! | Q5 | 0..=31 | `code - 16` |
//! | Q6 | 0..=63 | `code - 32` |
//! | Q8 | the bits of an `i8` in -127..=127 | the `i8` |
//!
//! and the *scale byte* of a block is `(v + 64) << 1 | shift` with `v` in -63..=63 for Q3, Q4 and Q4H,
//! an `i8` in -127..=127 for the others.

mod check;
#[cfg(test)]
mod tests;

pub use check::{TileError, check_tile};

use crate::{BLOCK, QuantType, TILE_ROWS};

/// The values that Q4's codes stand for, before the shift. Six bits: products with 8-bit
/// activations then add up in pairs within 16 bits on CPUs without a dot-product instruction.
pub const Q4_CODEBOOK: [i8; 16] = [
    -32, -26, -21, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 22, 28,
];

/// The values that Q3's codes stand for, before the shift. Five bits, of which the shift is one more value:
/// four products of a pair then add up within 16 bits.
pub const Q3_CODEBOOK: [i8; 8] = [-16, -10, -6, -3, 0, 3, 7, 12];

/// The codebook of a type whose scale bytes hold a shift: Q3, Q4 and Q4H.
pub const fn codebook(qtype: QuantType) -> Option<&'static [i8]> {
    match qtype {
        QuantType::Q3 => Some(&Q3_CODEBOOK),
        QuantType::Q4 | QuantType::Q4H => Some(&Q4_CODEBOOK),
        _ => None,
    }
}

/// The scale byte of Q3, Q4 and Q4H for block scale `v` in -63..=63.
///
/// # Panics
///
/// If `v` is out of range.
pub fn q4_scale_byte(v: i8, shift: bool) -> u8 {
    assert!((-63..=63).contains(&v), "Q4 block scale {v}");
    (((v + 64) as u8) << 1) | u8::from(shift)
}

/// Block scale and shift (0 or 1) of a scale byte of Q3, Q4 or Q4H.
pub const fn q4_scale(byte: u8) -> (i8, i8) {
    ((byte >> 1) as i8 - 64, (byte & 1) as i8)
}

/// Scale bytes in a block for each row: 2 for Q4H (low and high half), else 1; 0 for floats.
pub const fn scales_per_block(qtype: QuantType) -> usize {
    match qtype {
        QuantType::F32 | QuantType::F16 | QuantType::BF16 => 0,
        QuantType::Q4H => 2,
        _ => 1,
    }
}

/// The code of weight `k` (0..32) of row `row` (0..16) in a tile block of a quantised type.
///
/// # Panics
///
/// If `qtype` is a float type or an index is out of range.
pub fn code(qtype: QuantType, block: &[u8], row: usize, k: usize) -> u8 {
    assert!(row < TILE_ROWS && k < BLOCK, "row {row}, weight {k}");
    let quants = &block[scales_per_block(qtype) * TILE_ROWS..];
    // Group g holds weights 4g..4g+4 of every row; groups 0..4 are low nibbles, 4..8 high ones.
    let (g, i) = (k / 4, k % 4);
    let nibble = || quants[g % 4 * 64 + row * 4 + i] >> (g / 4 * 4) & 15;
    match qtype {
        // Groups 3 and 7 are what the other six leave of three bytes: two bits of one, one of the last.
        QuantType::Q3 => {
            let (vector, high, byte) = (g % 4, g / 4, |v: usize| quants[v * 64 + row * 4 + i]);
            if vector < 3 {
                byte(vector) >> (3 * high) & 7
            } else {
                byte(high) >> 6 | (byte(2) >> (6 + high) & 1) << 2
            }
        }
        QuantType::Q4 | QuantType::Q4H => nibble(),
        QuantType::Q5 => nibble() | (quants[256 + row * 4 + i] >> g & 1) << 4,
        QuantType::Q6 => {
            nibble() | (quants[256 + g / 4 * 64 + row * 4 + i] >> (g % 4 * 2) & 3) << 4
        }
        QuantType::Q8 => quants[g * 64 + row * 4 + i],
        QuantType::F32 | QuantType::F16 | QuantType::BF16 => panic!("{qtype} has no codes"),
    }
}

/// Sets the code of weight `k` of row `row`; the bits must be zero before.
///
/// # Panics
///
/// As [`code`], and if the code has more bits than the type.
pub fn set_code(qtype: QuantType, block: &mut [u8], row: usize, k: usize, code: u8) {
    assert!(row < TILE_ROWS && k < BLOCK, "row {row}, weight {k}");
    let bits = match qtype {
        QuantType::Q3 => 3,
        QuantType::Q4 | QuantType::Q4H => 4,
        QuantType::Q5 => 5,
        QuantType::Q6 => 6,
        QuantType::Q8 => 8,
        QuantType::F32 | QuantType::F16 | QuantType::BF16 => panic!("{qtype} has no codes"),
    };
    assert!(u32::from(code) < 1 << bits, "code {code} of {qtype}");
    let quants = &mut block[scales_per_block(qtype) * TILE_ROWS..];
    let (g, i) = (k / 4, k % 4);
    if qtype == QuantType::Q8 {
        quants[g * 64 + row * 4 + i] = code;
        return;
    }
    if qtype == QuantType::Q3 {
        let (vector, high) = (g % 4, g / 4);
        if vector < 3 {
            quants[vector * 64 + row * 4 + i] |= code << (3 * high);
        } else {
            quants[high * 64 + row * 4 + i] |= code << 6;
            quants[2 * 64 + row * 4 + i] |= (code >> 2) << (6 + high);
        }
        return;
    }
    quants[g % 4 * 64 + row * 4 + i] |= (code & 15) << (g / 4 * 4);
    match qtype {
        QuantType::Q5 => quants[256 + row * 4 + i] |= (code >> 4) << g,
        QuantType::Q6 => quants[256 + g / 4 * 64 + row * 4 + i] |= (code >> 4) << (g % 4 * 2),
        _ => {}
    }
}

/// The integer values of a row's 32 weights in a tile block, shift included.
pub fn values(qtype: QuantType, block: &[u8], row: usize) -> [i8; BLOCK] {
    std::array::from_fn(|k| {
        let c = code(qtype, block, row, k);
        if let Some(codebook) = codebook(qtype) {
            let half = if qtype == QuantType::Q4H { k / 16 } else { 0 };
            return codebook[usize::from(c)] + q4_scale(block[half * TILE_ROWS + row]).1;
        }
        match qtype {
            QuantType::Q5 => c as i8 - 16,
            QuantType::Q6 => c as i8 - 32,
            _ => c as i8,
        }
    })
}

/// The integer block scales of a row's low and high 16 weights; equal but for Q4H.
pub fn scales(qtype: QuantType, block: &[u8], row: usize) -> [i8; 2] {
    match qtype {
        QuantType::Q3 | QuantType::Q4 => [q4_scale(block[row]).0; 2],
        QuantType::Q4H => [q4_scale(block[row]).0, q4_scale(block[TILE_ROWS + row]).0],
        _ => [block[row] as i8; 2],
    }
}
