//! The names of the levels.

use std::fmt;

/// A set of instructions that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// The oracle itself, `chaski_quant::scalar`: any CPU, slow.
    Scalar,
    /// Plain code compiled for x86-64 CPUs with fused multiply-add.
    ScalarFma,
    /// x86-64 with AVX2, FMA and F16C (Intel since 2013, AMD since 2015).
    Avx2,
    /// The same with the 8-bit dot product in 256 bits: AVX-VNNI (Intel since 2021, AMD since 2024), or,
    /// without it, AVX-512 VNNI and VL, which have the same instruction in another encoding.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI (Intel since 2019, AMD since 2022).
    Avx512,
    /// The same with VBMI, whose byte permutation looks 4-bit codes up without a mask.
    Avx512Vbmi,
    /// 64-bit Arm, its base instruction set (Raspberry Pi 4).
    Neon,
    /// 64-bit Arm with the 8-bit dot product (Raspberry Pi 5, Apple M1).
    Dotprod,
    /// 64-bit Arm with 8-bit matrix products (Apple M2, Neoverse N2 and V1).
    I8mm,
}

impl Level {
    /// Every level, plainest first.
    pub const ALL: [Self; 9] = [
        Self::Scalar,
        Self::ScalarFma,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vbmi,
        Self::Neon,
        Self::Dotprod,
        Self::I8mm,
    ];

    /// The name as `CHASKI_SIMD` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::ScalarFma => "scalar-fma",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vbmi => "avx512vbmi",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::I8mm => "i8mm",
        }
    }

    /// The level with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
