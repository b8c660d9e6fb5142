//! What can be wrong with the choice of a level.

use std::{error::Error, fmt};

use crate::{Kernels, Level};

/// Why a SIMD level cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LevelError {
    /// No level has this name.
    Unknown {
        /// What was given.
        name: String,
    },
    /// This CPU, or this build, does not have the level.
    Unavailable {
        /// What was asked for.
        level: Level,
    },
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => write!(f, "unknown SIMD level `{}`", name.escape_debug())?,
            Self::Unavailable { level } => {
                write!(f, "this CPU does not have SIMD level `{level}`")?
            }
        }
        f.write_str(", available here:")?;
        for (i, kernels) in Kernels::available().enumerate() {
            write!(f, "{} {}", if i == 0 { "" } else { "," }, kernels.level())?;
        }
        Ok(())
    }
}

impl Error for LevelError {}
