//! IQ4_NL and IQ4_XS: 4-bit codes into a fixed grid.

use super::f16_at;

/// What the codes stand for, ggml's `kvalues_iq4nl`.
const GRID: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// `d[2] nibbles[16]`; byte `j` holds weights `j` and `j + 16`.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    from_grid(f16_at(block, 0), &block[2..], out);
}

/// `d[2] upper scale bits[2] lower scale bits[4] nibbles[128]`: 8 sub-blocks of 32 with a scale of 6 bits each,
/// stored plus 32.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = f16_at(block, 0);
    let upper = u16::from_le_bytes([block[2], block[3]]);
    for (b, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let low = block[4 + b / 2] >> (4 * (b % 2)) & 0xf;
        let scale = low | ((upper >> (2 * b) & 3) as u8) << 4;
        let scaled = d * f32::from(scale as i8 - 32);
        from_grid(scaled, &block[8 + 16 * b..][..16], out);
    }
}

fn from_grid(scale: f32, nibbles: &[u8], out: &mut [f32; 32]) {
    for (j, byte) in nibbles.iter().enumerate() {
        out[j] = scale * f32::from(GRID[usize::from(byte & 0xf)]);
        out[j + 16] = scale * f32::from(GRID[usize::from(byte >> 4)]);
    }
}
