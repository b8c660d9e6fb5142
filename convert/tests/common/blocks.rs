//! Blocks of GGUF's types: any bits with scales that are finite. Shared with `benches/peer`, which makes the goldens.
#![allow(dead_code, unreachable_pub, reason = "each user uses a part")]

use chaski_convert::dequant::GgmlType;
use chaski_models::testing::Rng;

/// Where a block has f16 numbers that scale all of it.
fn scales(t: GgmlType) -> &'static [usize] {
    match t {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => &[],
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4NL | GgmlType::IQ4XS => {
            &[0]
        }
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
        GgmlType::Q2K => &[80, 82],
        GgmlType::Q3K => &[108],
        GgmlType::Q6K => &[208],
    }
}

/// The upper byte of the exponent's bits, and all of them, of a little-endian float of this type.
fn float_exponent(t: GgmlType) -> Option<(usize, u8)> {
    match t {
        GgmlType::F32 => Some((4, 0x7f)),
        GgmlType::F16 => Some((2, 0x7c)),
        GgmlType::BF16 => Some((2, 0x7f)),
        _ => None,
    }
}

/// `n` blocks of type `t` from `seed`.
pub fn random_blocks(t: GgmlType, seed: u64, n: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed << 8 | u64::from(t.id()));
    let mut bytes: Vec<u8> = (0..n * t.block_bytes())
        .map(|_| rng.next_u64() as u8)
        .collect();
    for block in bytes.chunks_exact_mut(t.block_bytes()) {
        for &at in scales(t) {
            // An exponent of ones is an infinity or no number: one of its ones is taken away.
            if block[at + 1] & 0x7c == 0x7c {
                block[at + 1] &= 0xbf;
            }
        }
        if let Some((size, ones)) = float_exponent(t) {
            for float in block.chunks_exact_mut(size) {
                if float[size - 1] & ones == ones {
                    float[size - 1] &= 0xbf;
                }
            }
        }
    }
    bytes
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of `floats`, little-endian.
pub fn float_bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}
