//! The element types and their sizes, in one place.

use std::{error::Error, fmt, str::FromStr};

use crate::{BLOCK, TILE_ROWS};

/// How the weights of a matrix are stored.
///
/// The quantised types hold, for each row, one `f32` scale, for each block of 32 weights one 8-bit
/// integer scale (`Q4H`: one for each 16), and integer codes. A weight is
/// `value(code) * block_scale * row_scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QuantType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// The upper half of a binary32.
    BF16 = 2,
    /// 4.25 bits a weight: codes into [`Q4_CODEBOOK`](crate::tile::Q4_CODEBOOK), a scale of 7 bits and a shift bit.
    Q4 = 3,
    /// 4.5 bits a weight: as `Q4`, with a scale for each 16 weights.
    Q4H = 4,
    /// 5.25 bits a weight: integers in `-16..=15`.
    Q5 = 5,
    /// 6.25 bits a weight: integers in `-32..=31`.
    Q6 = 6,
    /// 8.25 bits a weight: integers in `-127..=127`.
    Q8 = 7,
    /// 3.25 bits a weight: codes into [`Q3_CODEBOOK`](crate::tile::Q3_CODEBOOK), a scale of 7 bits and a shift bit.
    Q3 = 8,
}

impl QuantType {
    /// Every type, in the order of their ids.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4,
        Self::Q4H,
        Self::Q5,
        Self::Q6,
        Self::Q8,
        Self::Q3,
    ];

    /// The number that stands for the type in a file.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The type that `id` stands for in a file.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The name as a user types it: `q4`, `q4h`, `bf16`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q4 => "q4",
            Self::Q4H => "q4h",
            Self::Q5 => "q5",
            Self::Q6 => "q6",
            Self::Q8 => "q8",
            Self::Q3 => "q3",
        }
    }

    /// Whether weights are integer codes with scales (`Q3` ... `Q8`) rather than floats.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a tile block: 16 rows by 32 weights with their block scales.
    pub const fn tile_block_bytes(self) -> usize {
        match self {
            Self::F32 => TILE_ROWS * BLOCK * 4,
            Self::F16 | Self::BF16 => TILE_ROWS * BLOCK * 2,
            Self::Q4 => 16 + 256,
            Self::Q4H => 32 + 256,
            Self::Q5 => 16 + 256 + 64,
            Self::Q6 => 16 + 256 + 128,
            Self::Q8 => 16 + 512,
            Self::Q3 => 16 + 192,
        }
    }

    /// Bytes of the row scales at the start of a tile: 64 for quantised types, else 0.
    pub const fn tile_header_bytes(self) -> usize {
        if self.is_quantized() {
            TILE_ROWS * 4
        } else {
            0
        }
    }

    /// Stored bits of one weight, block scales included, row scales not.
    pub fn bits_per_weight(self) -> f64 {
        (8 * self.tile_block_bytes()) as f64 / (TILE_ROWS * BLOCK) as f64
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no quant type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownQuantType {
    /// What was given.
    pub name: String,
}

impl fmt::Display for UnknownQuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown quant type `{}`, expected one of f32, f16, bf16, q3, q4, q4h, q5, q6, q8",
            self.name.escape_debug()
        )
    }
}

impl Error for UnknownQuantType {}

impl FromStr for QuantType {
    type Err = UnknownQuantType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| UnknownQuantType { name: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_round_trip() {
        for t in QuantType::ALL {
            assert_eq!(QuantType::from_id(t.id()), Some(t));
            assert_eq!(t.name().to_uppercase().parse(), Ok(t));
        }
        assert_eq!(QuantType::from_id(9), None);
        assert!(
            "q2".parse::<QuantType>()
                .unwrap_err()
                .to_string()
                .contains("`q2`")
        );
    }

    #[test]
    fn bits_per_weight_are_those_of_the_design() {
        let want = [32.0, 16.0, 16.0, 4.25, 4.5, 5.25, 6.25, 8.25, 3.25];
        for (t, want) in QuantType::ALL.into_iter().zip(want) {
            assert_eq!(t.bits_per_weight(), want, "{t}");
            assert_eq!(t.tile_block_bytes() % 16, 0, "{t}");
        }
    }
}
