//! What can be wrong with a tokenizer's description, with its stored forms, and with a text.

use std::{error::Error, fmt};

/// Why a tokenizer could not be read, or a text not be encoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenizerError {
    /// `tokenizer.json` is not JSON.
    Json(serde_json::Error),
    /// A part of `tokenizer.json` asks for something that this program cannot do.
    Unsupported {
        /// Where it stands: `pre_tokenizer.pretokenizers[0].type`.
        path: String,
        /// What it asks for.
        found: String,
    },
    /// A part of `tokenizer.json` or `tokenizer_config.json` is missing or not of its kind.
    Invalid {
        /// Where it stands: `model.merges[17]`.
        path: String,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// An expression that splits text does not compile.
    Pattern {
        /// Where it stands.
        path: String,
        /// The compiler's reason.
        cause: Box<fancy_regex::Error>,
    },
    /// An expression that splits text gave up on a text.
    Match(Box<fancy_regex::Error>),
    /// The added tokens cannot be searched for.
    Added(Box<aho_corasick::BuildError>),
    /// The text is too long to be encoded at once.
    TextTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most there may be.
        max: usize,
    },
    /// The tokenizer's normalizer makes a text far longer than it is.
    NormalizedTooLong {
        /// The length of the text in bytes.
        len: usize,
        /// The most that it may become.
        max: usize,
    },
    /// These bytes are not the fast form of a tokenizer.
    NotFastForm,
    /// The fast form is of another version: it has to be built again from `tokenizer.json`.
    FastVersion {
        /// The version that the bytes name.
        found: u32,
        /// The version that this program reads and writes.
        expected: u32,
    },
    /// The fast form is damaged.
    FastDamaged {
        /// The field that cannot be.
        field: &'static str,
    },
    /// The compressed `tokenizer.json` is damaged.
    CompressedDamaged {
        /// The field that cannot be.
        field: &'static str,
    },
    /// The compressed `tokenizer.json` is longer than the caller allows.
    CompressedTooLong {
        /// The length that it says it has, in bytes.
        len: u64,
        /// The most that the caller allows.
        max: usize,
    },
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(_) => f.write_str("the tokenizer is not JSON"),
            Self::Unsupported { path, found } => {
                write!(f, "tokenizer: `{path}` is {found}, which is not supported")
            }
            Self::Invalid {
                path,
                expected,
                found,
            } => {
                write!(f, "tokenizer: `{path}` should be {expected}, is {found}")
            }
            Self::Pattern { path, .. } => {
                write!(f, "tokenizer: the expression at `{path}` does not compile")
            }
            Self::Match(_) => f.write_str("the tokenizer's expression gave up on this text"),
            Self::Added(_) => f.write_str("the tokenizer's added tokens cannot be searched for"),
            Self::TextTooLong { len, max } => {
                write!(
                    f,
                    "a text of {len} bytes is too long to encode at once, at most {max}"
                )
            }
            Self::NormalizedTooLong { len, max } => {
                write!(
                    f,
                    "the tokenizer's `normalizer` makes more than {max} bytes of a text of {len}"
                )
            }
            Self::NotFastForm => f.write_str("not the fast form of a tokenizer"),
            Self::FastVersion { found, expected } => {
                write!(
                    f,
                    "the tokenizer's fast form has version {found}, expected {expected}"
                )
            }
            Self::FastDamaged { field } => {
                write!(f, "the tokenizer's fast form is damaged in `{field}`")
            }
            Self::CompressedDamaged { field } => {
                write!(f, "the compressed tokenizer is damaged in `{field}`")
            }
            Self::CompressedTooLong { len, max } => {
                write!(
                    f,
                    "the compressed tokenizer says it has {len} bytes, at most {max}"
                )
            }
        }
    }
}

impl Error for TokenizerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(cause) => Some(cause),
            Self::Pattern { cause, .. } | Self::Match(cause) => Some(cause),
            Self::Added(cause) => Some(cause),
            _ => None,
        }
    }
}
