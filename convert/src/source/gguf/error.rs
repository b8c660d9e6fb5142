//! Why a GGUF file was refused.

use std::{
    error::Error,
    fmt::{self, Write},
};

use crate::dequant::UnsupportedType;

/// Why a GGUF file cannot be converted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GgufError {
    /// The file does not start with `GGUF`.
    NotGguf {
        /// Its first four bytes.
        starts_with: [u8; 4],
    },
    /// A version that is not read.
    Version {
        /// The version.
        version: u32,
    },
    /// The file was written for a big-endian machine.
    BigEndian,
    /// The file ends before something that it announces.
    Truncated {
        /// What.
        what: String,
        /// Where it would start.
        at: u64,
        /// The bytes that it needs from there.
        needed: u64,
        /// The length of the file.
        len: u64,
    },
    /// A count beyond what any model has.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        n: u64,
        /// The most.
        max: u64,
    },
    /// A text beyond what any model has.
    TooLong {
        /// Which.
        what: String,
        /// Its bytes.
        len: u64,
        /// The most.
        max: u64,
    },
    /// A text that is not UTF-8.
    NotUtf8 {
        /// Which.
        what: String,
    },
    /// A name without a character.
    NoName {
        /// Of what.
        what: String,
    },
    /// A key that is there twice.
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value of a type that the format does not have.
    ValueType {
        /// The key.
        key: String,
        /// The type's id.
        id: u32,
    },
    /// An array of arrays.
    NestedArray {
        /// The key.
        key: String,
    },
    /// A key that is needed and absent.
    MissingKey {
        /// The key.
        key: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A value that is not what the key asks for.
    Value {
        /// The key, with an index where the value is an array's.
        key: String,
        /// What the key asks for.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// A value that changes the result in a way that is not implemented.
    Unsupported {
        /// The key.
        key: String,
        /// What is implemented.
        expected: String,
        /// What stands there.
        got: String,
        /// What to do, or why not.
        hint: &'static str,
    },
    /// A tensor that is there twice.
    DuplicateTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor that has to be there and is not.
    MissingTensor {
        /// Its name.
        tensor: &'static str,
    },
    /// A number of dimensions that the format does not have.
    Rank {
        /// The tensor's name.
        tensor: String,
        /// The number.
        n_dims: u32,
    },
    /// A tensor that is no vector and no matrix, is empty, or is larger than a file can be.
    Shape {
        /// Its name.
        tensor: String,
        /// Its dimensions as GGUF has them: columns first.
        dims: Vec<u64>,
        /// What it should be.
        expected: &'static str,
    },
    /// A tensor whose rows are not whole blocks.
    RaggedRows {
        /// Its name.
        tensor: String,
        /// Weights of a row.
        cols: u64,
        /// Its element type.
        dtype: &'static str,
        /// Weights of a block.
        block_len: usize,
    },
    /// A tensor of an element type that cannot be decoded.
    TensorType {
        /// Its name.
        tensor: String,
        /// Why.
        cause: UnsupportedType,
    },
    /// A tensor whose data does not start at a multiple of the alignment.
    Misaligned {
        /// Its name.
        tensor: String,
        /// Where the data starts in the data section.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor whose data does not lie in the file.
    OutOfFile {
        /// Its name.
        tensor: String,
        /// Where its data starts in the data section.
        offset: u64,
        /// Its bytes.
        bytes: u64,
        /// The bytes of the data section.
        data_len: u64,
    },
    /// Two tensors that share bytes.
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
    /// A token that cannot be what the file says it is.
    Token {
        /// The key.
        key: &'static str,
        /// Its index.
        id: usize,
        /// Its text.
        token: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A token that is there twice.
    DuplicateToken {
        /// Its text.
        token: String,
        /// Where it stands.
        ids: [usize; 2],
    },
    /// A merge that does not join two tokens to a third.
    Merge {
        /// Its index.
        index: usize,
        /// Its text.
        merge: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl GgufError {
    /// An [`Value`](Self::Value) error.
    pub(super) fn value(
        key: impl Into<String>,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        Self::Value {
            key: key.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

/// A text of the file as a message shows it: at most 80 characters, nothing that a terminal would interpret. Quotes
/// and backslashes stay, so that it may be shown twice.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 80;
        for c in self.0.chars().take(MAX) {
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                c => c.escape_debug().fmt(f)?,
            }
        }
        match self.0.char_indices().nth(MAX) {
            Some(_) => f.write_str("..."),
            None => Ok(()),
        }
    }
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGguf { starts_with } => {
                write!(f, "it starts with \"{}\", not with \"GGUF\"", starts_with.escape_ascii())
            }
            Self::Version { version } => write!(
                f,
                "GGUF version {version} is not read, versions 2 and 3 are; convert the original model again"
            ),
            Self::BigEndian => f.write_str(
                "the file was written for a big-endian machine; only little-endian GGUF files are read",
            ),
            Self::Truncated { what, at, needed, len } => write!(
                f,
                "the file is truncated: {what} needs {needed} bytes at byte {at} of {len}"
            ),
            Self::TooMany { what, n, max } => {
                write!(f, "the file announces {n} {what}, at most {max} are read")
            }
            Self::TooLong { what, len, max } => {
                write!(f, "{what} has {len} bytes, at most {max} are read")
            }
            Self::NotUtf8 { what } => write!(f, "{what} is not UTF-8"),
            Self::NoName { what } => write!(f, "{what} is empty"),
            Self::DuplicateKey { key } => write!(f, "key `{}` is there twice", Shown(key)),
            Self::ValueType { key, id } => {
                write!(f, "key `{}` has a value of the unknown type {id}", Shown(key))
            }
            Self::NestedArray { key } => {
                write!(f, "key `{}` is an array of arrays, which no model has", Shown(key))
            }
            Self::MissingKey { key, expected } => {
                write!(f, "key `{}` is missing: expected {expected}", Shown(key))
            }
            Self::Value { key, expected, got } => {
                write!(f, "key `{}` is {}, expected {expected}", Shown(key), Shown(got))
            }
            Self::Unsupported { key, expected, got, hint } => {
                write!(f, "key `{}` is {}, expected {expected}; {hint}", Shown(key), Shown(got))
            }
            Self::DuplicateTensor { tensor } => {
                write!(f, "tensor `{}` is there twice", Shown(tensor))
            }
            Self::MissingTensor { tensor } => write!(f, "tensor `{tensor}` is missing"),
            Self::Rank { tensor, n_dims } => {
                write!(f, "tensor `{}` has {n_dims} dimensions, expected 1 or 2", Shown(tensor))
            }
            Self::Shape { tensor, dims, expected } => {
                write!(f, "tensor `{}` has dimensions {dims:?}, expected {expected}", Shown(tensor))
            }
            Self::RaggedRows { tensor, cols, dtype, block_len } => write!(
                f,
                "tensor `{}` has rows of {cols} weights, which are no whole {dtype} blocks of {block_len}",
                Shown(tensor)
            ),
            Self::TensorType { tensor, cause } => write!(f, "tensor `{}`: {cause}", Shown(tensor)),
            Self::Misaligned { tensor, offset, alignment } => write!(
                f,
                "tensor `{}` starts at byte {offset} of the data, which is no multiple of {alignment}",
                Shown(tensor)
            ),
            Self::OutOfFile { tensor, offset, bytes, data_len } => write!(
                f,
                "tensor `{}` has {bytes} bytes from byte {offset} of the data on, which has {data_len}: the file \
                 is truncated or damaged",
                Shown(tensor)
            ),
            Self::Overlap { first, second } => {
                write!(f, "tensors `{}` and `{}` overlap", Shown(first), Shown(second))
            }
            Self::Token { key, id, token, problem } => {
                write!(f, "key `{key}`: token {id}, \"{}\", {problem}", Shown(token))
            }
            Self::DuplicateToken { token, ids: [a, b] } => write!(
                f,
                "key `tokenizer.ggml.tokens`: tokens {a} and {b} are both \"{}\"",
                Shown(token)
            ),
            Self::Merge { index, merge, problem } => write!(
                f,
                "key `tokenizer.ggml.merges`: merge {index}, \"{}\", {problem}",
                Shown(merge)
            ),
        }
    }
}

impl Error for GgufError {}
