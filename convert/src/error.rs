//! Why a conversion failed.

use std::{error::Error, fmt, io, path::PathBuf};

use chaski_models::{metadata::MetadataError, tokenizer::TokenizerError};
use chaski_quant::{LayoutError, container::ContainerError, quantize::QuantizeError};

use crate::{
    allocate::AllocateError, calibrate::CalibrationError, mapping::MappingError,
    recipe::RecipeError, source::SourceError,
};

/// Why a conversion failed. No file is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConvertError {
    /// The source could not be opened or read.
    Source(SourceError),
    /// The source's tensors are not those of its config.
    Mapping(MappingError),
    /// The source has no tokenizer, and a file without one was not asked for.
    NoTokenizer(SourceError),
    /// The source's tokenizer is not understood.
    Tokenizer(TokenizerError),
    /// A tensor has no layout.
    Layout {
        /// The file's name for it.
        tensor: String,
        /// Why.
        cause: LayoutError,
    },
    /// 16 rows of a tensor are more than is converted within bounded memory.
    RowsTooLong {
        /// The source's name for it.
        tensor: String,
        /// Bytes that they take.
        bytes: u64,
        /// Bytes that they may take.
        max: u64,
    },
    /// A weight is not finite.
    NotFinite {
        /// The source's name of its tensor.
        tensor: String,
        /// Its row in the source, from 0; 0 of a vector.
        row: usize,
        /// Its position in the row, from 0.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// Balancing made a weight too large.
    Overflow {
        /// The source's name of its tensor.
        tensor: String,
        /// Its row in the source, from 0; 0 of a vector.
        row: usize,
        /// Its position in the row, from 0.
        col: usize,
    },
    /// The file to write is one of the source's.
    Own {
        /// The file.
        path: PathBuf,
    },
    /// A tile could not be quantised.
    Quantize {
        /// The source's name of its tensor.
        tensor: String,
        /// Why.
        cause: QuantizeError,
    },
    /// The file system has no room for the file.
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        needed: u64,
        /// What is free, where the system tells.
        available: Option<u64>,
    },
    /// The file could not be planned or written.
    Container(ContainerError),
    /// What would be recorded in the file is not accepted.
    Metadata(MetadataError),
    /// The threads could not be started.
    Threads(rayon::ThreadPoolBuildError),
    /// The recipe is none.
    Recipe(RecipeError),
    /// No types reach the target.
    Allocate(AllocateError),
    /// The text to calibrate with cannot be used.
    Calibration(CalibrationError),
    /// Calibration was asked for, and no machine to run the source was given.
    NoRunner,
    /// Tiles could not be kept beside the file until their turn.
    Spill(io::Error),
    /// The progress callback asked to stop.
    Cancelled,
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(cause) => cause.fmt(f),
            Self::Mapping(cause) => cause.fmt(f),
            Self::NoTokenizer(cause) => write!(
                f,
                "{cause}; to convert it without one, for measurements on token ids, say so: --no-tokenizer"
            ),
            Self::Tokenizer(cause) => cause.fmt(f),
            Self::Layout { tensor, .. } => write!(f, "tensor `{tensor}` cannot be laid out"),
            Self::RowsTooLong { tensor, bytes, max } => write!(
                f,
                "16 rows of tensor `{}` are {bytes} bytes, at most {max} are converted at a time",
                tensor.escape_debug()
            ),
            Self::NotFinite {
                tensor,
                row,
                col,
                value,
            } => write!(
                f,
                "tensor `{}` has the value {value} at row {row}, column {col}: a model with such weights \
                 cannot compute anything",
                tensor.escape_debug()
            ),
            Self::Overflow { tensor, row, col } => write!(
                f,
                "tensor `{}` has a weight at row {row}, column {col} that balancing its channel makes too \
                 large for 32 bits: convert it without --calibrate",
                tensor.escape_debug()
            ),
            Self::Own { path } => write!(
                f,
                "`{}` is a file of the source: write to another one",
                path.display()
            ),
            Self::Quantize { tensor, .. } => {
                write!(f, "could not quantise tensor `{}`", tensor.escape_debug())
            }
            Self::DiskFull {
                path,
                needed,
                available,
            } => {
                write!(f, "no room for {}: it takes {needed} bytes", path.display())?;
                match available {
                    Some(available) => write!(f, ", {available} are free"),
                    None => Ok(()),
                }
            }
            Self::Container(cause) => cause.fmt(f),
            Self::Metadata(_) => f.write_str("what would be recorded in the file is not accepted"),
            Self::Threads(_) => f.write_str("could not start the threads"),
            Self::Recipe(cause) => cause.fmt(f),
            Self::Allocate(cause) => cause.fmt(f),
            Self::Calibration(cause) => cause.fmt(f),
            Self::NoRunner => f.write_str("calibration needs a machine that runs the model"),
            Self::Spill(_) => {
                f.write_str("could not keep tiles in a temporary file beside the output")
            }
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl Error for ConvertError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Source(cause) | Self::NoTokenizer(cause) => cause.source(),
            Self::Mapping(cause) => cause.source(),
            Self::Tokenizer(cause) => cause.source(),
            Self::Layout { cause, .. } => Some(cause),
            Self::Quantize { cause, .. } => Some(cause),
            Self::Container(cause) => cause.source(),
            Self::Metadata(cause) => Some(cause),
            Self::Threads(cause) => Some(cause),
            Self::Calibration(cause) => cause.source(),
            Self::Spill(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<SourceError> for ConvertError {
    fn from(cause: SourceError) -> Self {
        Self::Source(cause)
    }
}

impl From<MappingError> for ConvertError {
    fn from(cause: MappingError) -> Self {
        Self::Mapping(cause)
    }
}

impl From<ContainerError> for ConvertError {
    fn from(cause: ContainerError) -> Self {
        Self::Container(cause)
    }
}

impl From<MetadataError> for ConvertError {
    fn from(cause: MetadataError) -> Self {
        Self::Metadata(cause)
    }
}

impl From<CalibrationError> for ConvertError {
    fn from(cause: CalibrationError) -> Self {
        Self::Calibration(cause)
    }
}
