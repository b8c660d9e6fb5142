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
}

impl Level {
    /// Every level, plainest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::ScalarFma, Self::Avx2];

    /// The name as `CHASKI_SIMD` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::ScalarFma => "scalar-fma",
            Self::Avx2 => "avx2",
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
