//! GGUF's block types to `f32`, each bit for bit as ggml's `dequantize_row_*`.
//!
//! A row of a GGUF tensor is a sequence of blocks; a block is 1, 32 or (the superblocks of the K-quants and of
//! IQ4_XS) 256 weights. What "bit for bit" means: the products are formed in ggml's order, each rounded to `f32`,
//! none fused. `d * scale` is rounded before it meets a code, and a min is subtracted from a rounded product.
//!
//! Source of the formulas: ggml's `ggml-quants.c` and the layouts in `ggml-common.h`. They are checked against a
//! prebuilt ggml library (`benches/peer`) and, where none is there, against golden blocks that were made with one.

use std::{error::Error, fmt};

mod floats;
mod iq4;
mod k_quants;
mod legacy;

/// An element type of GGUF that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GgmlType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 32 weights in 18 bytes: `d * (q - 8)`.
    Q4_0,
    /// 32 weights in 20 bytes: `d * q + m`.
    Q4_1,
    /// 32 weights in 22 bytes: `d * (q - 16)`.
    Q5_0,
    /// 32 weights in 24 bytes: `d * q + m`.
    Q5_1,
    /// 32 weights in 34 bytes: `d * q`.
    Q8_0,
    /// 256 weights in 84 bytes: 16 scales and mins of 4 bits, codes of 2.
    Q2K,
    /// 256 weights in 110 bytes: 16 scales of 6 bits, codes of 3.
    Q3K,
    /// 256 weights in 144 bytes: 8 scales and mins of 6 bits, codes of 4.
    Q4K,
    /// 256 weights in 176 bytes: 8 scales and mins of 6 bits, codes of 5.
    Q5K,
    /// 256 weights in 210 bytes: 16 scales of 8 bits, codes of 6.
    Q6K,
    /// 32 weights in 18 bytes: `d * grid[q]`.
    IQ4NL,
    /// 256 weights in 136 bytes: 8 scales of 6 bits, `grid[q]`.
    IQ4XS,
}

/// What is known of a type.
struct Description {
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    decode: fn(&[u8], &mut [f32]),
}

const fn describe(
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    decode: fn(&[u8], &mut [f32]),
) -> Description {
    Description {
        id,
        name,
        block_len,
        block_bytes,
        decode,
    }
}

/// In the order of [`GgmlType`].
static TYPES: [Description; 15] = [
    describe(0, "F32", 1, 4, floats::f32_row),
    describe(1, "F16", 1, 2, floats::f16_row),
    describe(30, "BF16", 1, 2, floats::bf16_row),
    describe(2, "Q4_0", 32, 18, |raw, out| {
        each_block(raw, out, legacy::q4_0)
    }),
    describe(3, "Q4_1", 32, 20, |raw, out| {
        each_block(raw, out, legacy::q4_1)
    }),
    describe(6, "Q5_0", 32, 22, |raw, out| {
        each_block(raw, out, legacy::q5_0)
    }),
    describe(7, "Q5_1", 32, 24, |raw, out| {
        each_block(raw, out, legacy::q5_1)
    }),
    describe(8, "Q8_0", 32, 34, |raw, out| {
        each_block(raw, out, legacy::q8_0)
    }),
    describe(10, "Q2_K", 256, 84, |raw, out| {
        each_block(raw, out, k_quants::q2_k)
    }),
    describe(11, "Q3_K", 256, 110, |raw, out| {
        each_block(raw, out, k_quants::q3_k)
    }),
    describe(12, "Q4_K", 256, 144, |raw, out| {
        each_block(raw, out, k_quants::q4_k)
    }),
    describe(13, "Q5_K", 256, 176, |raw, out| {
        each_block(raw, out, k_quants::q5_k)
    }),
    describe(14, "Q6_K", 256, 210, |raw, out| {
        each_block(raw, out, k_quants::q6_k)
    }),
    describe(20, "IQ4_NL", 32, 18, |raw, out| {
        each_block(raw, out, iq4::iq4_nl)
    }),
    describe(23, "IQ4_XS", 256, 136, |raw, out| {
        each_block(raw, out, iq4::iq4_xs)
    }),
];

/// Names of ids that ggml uses, or has used, and that are not decoded here.
const NOT_DECODED: [(u32, &str); 26] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

/// Ids that ggml has withdrawn: files with them cannot be made any more.
const RETIRED: [u32; 8] = [4, 5, 31, 32, 33, 36, 37, 38];

impl GgmlType {
    /// Every type that can be decoded.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::IQ4NL,
        Self::IQ4XS,
    ];

    fn description(self) -> &'static Description {
        &TYPES[self as usize]
    }

    /// The type that `id` stands for in a GGUF file.
    pub fn from_id(id: u32) -> Result<Self, UnsupportedType> {
        let known = Self::ALL.into_iter().find(|t| t.id() == id);
        known.ok_or_else(|| UnsupportedType {
            id,
            name: NOT_DECODED.iter().find(|t| t.0 == id).map(|t| t.1),
            retired: RETIRED.contains(&id),
        })
    }

    /// The number that stands for the type in a GGUF file, ggml's `enum ggml_type`.
    pub fn id(self) -> u32 {
        self.description().id
    }

    /// The name as GGUF's tools write it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// Weights of a block.
    pub fn block_len(self) -> usize {
        self.description().block_len
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.description().block_bytes
    }

    /// Stored bits of one weight.
    pub fn bits_per_weight(self) -> f64 {
        (8 * self.block_bytes()) as f64 / self.block_len() as f64
    }

    /// Bytes of a row of `cols` weights; `None` where these are not whole blocks or do not fit `usize`.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let whole = cols.is_multiple_of(self.block_len());
        if whole {
            (cols / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Decodes the blocks of `raw` to the weights of `out`, in order. Values that are not finite come out as they
    /// are.
    ///
    /// # Panics
    ///
    /// If `raw` and `out` are not the same whole blocks: `raw.len() != row_bytes(out.len())`.
    pub fn dequantize(self, raw: &[u8], out: &mut [f32]) {
        let expected = self.row_bytes(out.len());
        assert_eq!(
            Some(raw.len()),
            expected,
            "{} bytes for {} weights",
            self.name(),
            out.len()
        );
        (self.description().decode)(raw, out);
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A type id that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedType {
    /// The id.
    pub id: u32,
    /// What ggml calls it, if the id is one of ggml's.
    pub name: Option<&'static str>,
    /// ggml has withdrawn the type.
    pub retired: bool,
}

impl fmt::Display for UnsupportedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "type {name} (id {})", self.id)?,
            None => write!(f, "type id {}", self.id)?,
        }
        f.write_str(match (self.retired, self.name) {
            (true, _) => " was withdrawn from the format and cannot be converted; supported are ",
            (false, Some(_)) => " cannot be converted; supported are ",
            (false, None) => " is unknown; supported are ",
        })?;
        for (i, t) in GgmlType::ALL.into_iter().enumerate() {
            write!(f, "{}{t}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Error for UnsupportedType {}

/// Calls `decode` for each block.
fn each_block<const BYTES: usize, const LEN: usize>(
    raw: &[u8],
    out: &mut [f32],
    decode: fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in raw.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

/// The little-endian f16 at `at`, as f32.
fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_id_name_and_size() {
        for (i, t) in GgmlType::ALL.into_iter().enumerate() {
            assert_eq!(t as usize, i);
            assert_eq!(GgmlType::from_id(t.id()), Ok(t));
            assert_eq!(
                t.row_bytes(2 * t.block_len()),
                Some(2 * t.block_bytes()),
                "{t}"
            );
            assert_eq!(t.row_bytes(0), Some(0));
            if t.block_len() > 1 {
                assert_eq!(t.row_bytes(t.block_len() + 1), None, "{t}");
            }
        }
        assert_eq!(GgmlType::Q2K.bits_per_weight(), 2.625);
        assert_eq!(GgmlType::IQ4XS.bits_per_weight(), 4.25);
        assert_eq!(GgmlType::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn other_ids_are_named() {
        let text = |id| GgmlType::from_id(id).unwrap_err().to_string();
        assert!(
            text(16).starts_with("type IQ2_XXS (id 16) cannot be converted; supported are F32,")
        );
        assert!(
            text(4).starts_with("type id 4 was withdrawn"),
            "{}",
            text(4)
        );
        assert!(
            text(31).starts_with("type Q4_0_4_4 (id 31) was withdrawn"),
            "{}",
            text(31)
        );
        assert!(
            text(u32::MAX).starts_with("type id 4294967295 is unknown"),
            "{}",
            text(u32::MAX)
        );
    }

    #[test]
    #[should_panic = "Q4_0 bytes for 32 weights"]
    fn other_lengths_are_refused() {
        GgmlType::Q4_0.dequantize(&[0; 17], &mut [0.0; 32]);
    }
}
