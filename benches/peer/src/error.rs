//! Why the peer cannot be asked.

use std::{error::Error, fmt, path::PathBuf};

/// Why the peer cannot be asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeerError {
    /// A library could not be loaded, or lacks a function.
    Library {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: libloading::Error,
    },
    /// The library is not of the release that the bindings were made from.
    Version {
        /// What ggml says.
        got: String,
        /// What it should say.
        expected: &'static str,
    },
    /// A CPU backend that cannot be loaded on this machine.
    Backend {
        /// Which.
        path: PathBuf,
    },
    /// A path that a C function cannot be given.
    Path {
        /// Which.
        path: PathBuf,
    },
    /// llama.cpp cannot load the model.
    Model {
        /// Which.
        path: PathBuf,
    },
    /// llama.cpp cannot make a context.
    Context,
    /// llama.cpp failed to compute.
    Decode {
        /// What it returned.
        status: i32,
    },
    /// The context has no room for the tokens.
    Full {
        /// Positions that it has.
        context_len: usize,
    },
    /// A token that the vocabulary does not have.
    Token {
        /// Its id.
        token: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A type that ggml does not have, or not for this.
    Type {
        /// Its id.
        id: u32,
    },
    /// Weights that are not whole rows, or rows that are not whole blocks.
    Rows {
        /// The type's id.
        id: u32,
        /// Weights of a row.
        cols: usize,
        /// Weights.
        n: usize,
    },
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library { path, .. } => write!(
                f,
                "could not load {}: CHASKI_GGML_DIR has to be a folder as scripts/get-ggml.sh makes it",
                path.display()
            ),
            Self::Version { got, expected } => write!(
                f,
                "the library is ggml {got}, the bindings are of {expected}: fetch that release with \
                 scripts/get-ggml.sh, or make the bindings anew with benches/peer/scripts/generate.sh"
            ),
            Self::Backend { path } => {
                write!(
                    f,
                    "could not load {}, or this machine lacks its instructions",
                    path.display()
                )
            }
            Self::Path { path } => write!(f, "a C function cannot be given the path {path:?}"),
            Self::Model { path } => write!(f, "llama.cpp could not load {}", path.display()),
            Self::Context => f.write_str("llama.cpp could not make a context"),
            Self::Decode { status } => write!(f, "llama.cpp failed to compute: status {status}"),
            Self::Full { context_len } => {
                write!(f, "llama.cpp's context of {context_len} positions is full")
            }
            Self::Token { token, vocab_size } => {
                write!(
                    f,
                    "token {token} is not one of the {vocab_size} of the vocabulary"
                )
            }
            Self::Type { id } => write!(f, "ggml cannot do this with type {id}"),
            Self::Rows { id, cols, n } => write!(
                f,
                "{n} weights in rows of {cols} are not whole blocks of ggml's type {id}"
            ),
        }
    }
}

impl Error for PeerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Library { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
