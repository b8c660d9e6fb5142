//! F32, F16 and BF16: one weight a block.

use half::{f16, slice::HalfFloatSliceExt};

/// The weights as they are.
pub(super) fn f32_row(raw: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(raw.as_chunks().0) {
        *x = f32::from_le_bytes(*b);
    }
}

/// Exact; the payload of a NaN is kept and the NaN made quiet.
pub(super) fn f16_row(raw: &[u8], out: &mut [f32]) {
    // By the slice: the conversion then uses the CPU's instruction where there is one.
    let mut halves = [f16::ZERO; 64];
    for (out, raw) in out.chunks_mut(64).zip(raw.chunks(128)) {
        let halves = &mut halves[..out.len()];
        for (h, b) in halves.iter_mut().zip(raw.as_chunks().0) {
            *h = f16::from_le_bytes(*b);
        }
        halves.convert_to_f32_slice(out);
    }
}

/// The upper half of the bits; unlike `bf16::to_f32` it keeps a signalling NaN, as ggml does.
pub(super) fn bf16_row(raw: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(raw.as_chunks().0) {
        *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}
