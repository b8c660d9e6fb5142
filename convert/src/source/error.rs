//! Why a source could not be opened or read.

use std::{error::Error, fmt, io, path::PathBuf};

use chaski_models::config::ConfigError;

use super::{gguf::GgufError, hf::HfError};

/// Why a source could not be opened or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or directory could not be opened.
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file could not be read, or is shorter than it was when it was opened.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that should be small is not.
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The most bytes that it may have.
        max: u64,
    },
    /// A path that is neither a checkpoint directory nor a GGUF file.
    NotACheckpoint {
        /// Which.
        path: PathBuf,
        /// Its first bytes, at most 8.
        starts_with: Vec<u8>,
    },
    /// The model's description cannot be used.
    Config {
        /// Where it stands.
        path: PathBuf,
        /// Why.
        cause: ConfigError,
    },
    /// The source has no tokenizer that can be read.
    NoTokenizer {
        /// Where it was looked for.
        path: PathBuf,
        /// The directory has `tokenizer.model`, which is not read.
        sentencepiece_only: bool,
    },
    /// The checkpoint directory is at fault.
    Hf(HfError),
    /// The GGUF file is at fault.
    Gguf {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: GgufError,
    },
    /// [`decode`](super::Source::decode) was handed bytes or floats that are not whole rows of the
    /// tensor.
    NotWholeRows {
        /// The tensor's name.
        tensor: String,
        /// Raw bytes handed over.
        raw_bytes: usize,
        /// Floats asked for.
        floats: usize,
    },
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, .. } => write!(f, "could not open {}", path.display()),
            Self::Read { path, .. } => write!(f, "could not read {}", path.display()),
            Self::TooLarge { path, max } => {
                write!(
                    f,
                    "{} has more than the {max} bytes that it may have",
                    path.display()
                )
            }
            Self::NotACheckpoint { path, starts_with } => {
                write!(
                    f,
                    "{} is neither a checkpoint directory nor a GGUF file: ",
                    path.display()
                )?;
                if starts_with.is_empty() {
                    return f.write_str("it is empty");
                }
                write!(f, "it starts with \"{}\"", starts_with.escape_ascii())?;
                match path.extension().and_then(|e| e.to_str()) {
                    Some("safetensors") => f.write_str(
                        "; give the directory that holds it, config.json and the tokenizer",
                    ),
                    Some("chaski") => f.write_str("; a chaski file needs no conversion"),
                    _ => Ok(()),
                }
            }
            Self::Config { path, .. } => {
                write!(
                    f,
                    "the model that {} describes cannot be converted",
                    path.display()
                )
            }
            Self::NoTokenizer {
                path,
                sentencepiece_only,
            } => {
                write!(f, "{} has no tokenizer", path.display())?;
                if *sentencepiece_only {
                    f.write_str(
                        ".json: its tokenizer.model is not read; load and save it with Hugging Face's \
                         AutoTokenizer, which writes a tokenizer.json beside it",
                    )?;
                }
                Ok(())
            }
            Self::Hf(cause) => cause.fmt(f),
            Self::Gguf { path, .. } => {
                write!(f, "the GGUF file {} cannot be converted", path.display())
            }
            Self::NotWholeRows {
                tensor,
                raw_bytes,
                floats,
            } => write!(
                f,
                "{raw_bytes} bytes and {floats} floats are not the same whole rows of tensor `{tensor}`"
            ),
        }
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open { cause, .. } | Self::Read { cause, .. } => Some(cause),
            Self::Config { cause, .. } => Some(cause),
            Self::Hf(cause) => cause.source(),
            Self::Gguf { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<HfError> for SourceError {
    fn from(cause: HfError) -> Self {
        Self::Hf(cause)
    }
}
