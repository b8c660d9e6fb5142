//! Why a session could not be made or go on.

use std::{error::Error, fmt};

use chaski_models::{BackendError, TokenId};

use crate::backend::{GpuLayers, cpu::TeamError, cuda::CudaError};

/// Why a session could not be made or go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionError {
    /// An option is out of its range.
    Option {
        /// What it is.
        what: &'static str,
        /// What was given.
        got: usize,
        /// The largest value; the smallest is 1.
        max: usize,
    },
    /// The text does not fit.
    ContextFull {
        /// Positions that it needs.
        needed: usize,
        /// Positions that there are.
        context_len: usize,
    },
    /// There is no such token.
    NoSuchToken {
        /// The token.
        token: TokenId,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A logit is not finite: the weights are broken, or the text drives them out of range.
    NotFinite {
        /// The position.
        pos: usize,
    },
    /// There is no such sequence, or it was named twice.
    Sequence {
        /// Its number.
        seq: usize,
        /// Sequences that there are.
        n_sequences: usize,
    },
    /// Nothing was given to read.
    Empty,
    /// Reading was cancelled; the session's text is what was read.
    Cancelled {
        /// Tokens read.
        read: usize,
        /// Tokens that were to be read.
        of: usize,
    },
    /// The threads could not be started.
    Team(TeamError),
    /// The layers that were to be on a GPU cannot be there.
    Cuda {
        /// What was asked for.
        gpu_layers: GpuLayers,
        /// The cause.
        source: CudaError,
    },
    /// A pass failed.
    Backend(BackendError),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { what, got, max } => {
                write!(f, "{what} of {got}: expected a number from 1 to {max}")
            }
            Self::ContextFull {
                needed,
                context_len,
            } => write!(
                f,
                "the text needs {needed} positions, the context has {context_len}: shorten it or ask \
                 for a larger context (-c {needed} or more)"
            ),
            Self::NoSuchToken { token, vocab_size } => {
                write!(f, "token {token} of a vocabulary of {vocab_size}")
            }
            Self::NotFinite { pos } => write!(
                f,
                "the logits at position {pos} are not finite: run `chaski verify` on the file; if it \
                 passes, try a larger type, or, where it is not quantised, another source: its own weights \
                 make numbers that are too large"
            ),
            Self::Sequence { seq, n_sequences } if seq < n_sequences => {
                write!(f, "sequence {seq} was given two tokens for one step")
            }
            Self::Sequence { seq, n_sequences } => {
                write!(f, "sequence {seq} of a session of {n_sequences}")
            }
            Self::Empty => f.write_str("there is no token to read"),
            Self::Cancelled { read, of } => {
                write!(f, "cancelled after {read} of {of} tokens were read")
            }
            Self::Team(_) => f.write_str("the session's threads could not be started"),
            Self::Cuda { gpu_layers, .. } => write!(
                f,
                "-ngl {gpu_layers} cannot be followed (-ngl 0 keeps the model on the CPU)"
            ),
            Self::Backend(_) => f.write_str("the model could not be run"),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Team(e) => Some(e),
            Self::Cuda { source, .. } => Some(source),
            Self::Backend(e) => Some(e),
            _ => None,
        }
    }
}
