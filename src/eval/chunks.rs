//! A text in chunks, and what reads them.

use std::{error::Error, fmt};

use chaski_models::TokenId;
use rayon::ThreadPoolBuildError;

use crate::session::{Session, SessionError};

/// Something that reads tokens and gives logits.
pub trait Reader {
    /// Why it could not.
    type Error;

    /// Logits of a position.
    fn vocab_size(&self) -> usize;

    /// Forgets what was read.
    fn clear(&mut self);

    /// Reads `tokens` after what was read, and hands the logits after each token from
    /// `tokens[first]` on to `sink`, with the token's index in `tokens`. The logits after the last
    /// token may be handed over unasked.
    ///
    /// # Errors
    ///
    /// The model fails.
    fn read(
        &mut self,
        tokens: &[TokenId],
        first: usize,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Self::Error>;
}

impl Reader for Session {
    type Error = SessionError;

    fn vocab_size(&self) -> usize {
        self.model().config().vocab_size
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn read(
        &mut self,
        tokens: &[TokenId],
        first: usize,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SessionError> {
        self.extend_with(tokens, first, sink)
    }
}

/// Why a text cannot be cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChunkError {
    /// The text has fewer tokens than a chunk.
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// A chunk must have at least 4 tokens.
    Chunk {
        /// What was asked for.
        chunk: usize,
    },
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { tokens, needed } => write!(
                f,
                "the text has {tokens} tokens, at least {needed} are needed for a chunk"
            ),
            Self::Chunk { chunk } => write!(f, "a chunk of {chunk} tokens: at least 4 are needed"),
        }
    }
}

impl Error for ChunkError {}

/// Why a model cannot be measured; `E` is the [`Reader`]'s error.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvalError<E> {
    /// The model and its reference have vocabularies of different sizes.
    Vocabulary {
        /// The model's.
        model: usize,
        /// The reference's.
        reference: usize,
    },
    /// The threads that compare logits could not be started.
    Threads(ThreadPoolBuildError),
    /// The model failed.
    Model(E),
    /// The reference failed.
    Reference(E),
}

impl<E> fmt::Display for EvalError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vocabulary { model, reference } => write!(
                f,
                "the model has logits of {model} tokens, its reference of {reference}: they cannot be \
                 compared"
            ),
            Self::Threads(_) => f.write_str("the threads that compare could not be started"),
            Self::Model(_) => f.write_str("the model failed on a chunk"),
            Self::Reference(_) => f.write_str("the reference failed on a chunk"),
        }
    }
}

impl<E: Error + 'static> Error for EvalError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Model(e) | Self::Reference(e) => Some(e),
            Self::Threads(e) => Some(e),
            Self::Vocabulary { .. } => None,
        }
    }
}

/// The chunks of a text that are scored.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'t> {
    tokens: &'t [TokenId],
    bos: Option<TokenId>,
    len: usize,
    n: usize,
}

impl<'t> Chunks<'t> {
    /// Cuts `tokens` into chunks of `len`, at most `max` of them; `bos` replaces the first token of
    /// each.
    ///
    /// # Errors
    ///
    /// The text is too short, or the chunk.
    pub fn new(
        tokens: &'t [TokenId],
        bos: Option<TokenId>,
        len: usize,
        max: Option<usize>,
    ) -> Result<Self, ChunkError> {
        if len < 4 {
            return Err(ChunkError::Chunk { chunk: len });
        }
        let n = (tokens.len() / len).min(max.unwrap_or(usize::MAX));
        if n == 0 {
            return Err(ChunkError::TooShort {
                tokens: tokens.len(),
                needed: len,
            });
        }
        Ok(Self {
            tokens,
            bos,
            len,
            n,
        })
    }

    /// Number of chunks.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Tokens of a chunk.
    pub const fn chunk_len(&self) -> usize {
        self.len
    }

    /// The positions that are scored in each chunk.
    pub const fn scored(&self) -> std::ops::Range<usize> {
        self.len / 2..self.len - 1
    }

    /// What is read of chunk `i`: its tokens but the first, which may be replaced.
    pub(super) fn input(&self, i: usize, input: &mut Vec<TokenId>) {
        input.clear();
        input.extend_from_slice(&self.tokens[i * self.len..][..self.len]);
        if let Some(bos) = self.bos {
            input[0] = bos;
        }
    }

    /// The token that follows position `pos` of chunk `i`.
    pub(super) fn next(&self, i: usize, pos: usize) -> TokenId {
        self.tokens[i * self.len + pos + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_and_chunks_are_errors_with_numbers() {
        let cut = |n: usize, chunk| {
            let tokens = vec![TokenId(0); n];
            Chunks::new(&tokens, None, chunk, None)
                .unwrap_err()
                .to_string()
        };
        assert!(cut(10, 16).contains("10 tokens, at least 16"));
        assert!(cut(10, 3).contains("3 tokens"));
        assert!(cut(0, 4).contains("0 tokens"));
    }

    #[test]
    fn a_chunk_begins_with_bos_and_is_scored_on_what_follows() {
        let tokens: Vec<TokenId> = (0..11).map(TokenId).collect();
        let chunks = Chunks::new(&tokens, Some(TokenId(99)), 5, None).unwrap();
        assert_eq!(
            (chunks.n(), chunks.chunk_len(), chunks.scored()),
            (2, 5, 2..4)
        );
        let mut input = Vec::new();
        chunks.input(1, &mut input);
        assert_eq!(input, [99, 6, 7, 8, 9].map(TokenId));
        assert_eq!(chunks.next(1, 3), TokenId(9));
        assert_eq!(Chunks::new(&tokens, None, 5, Some(1)).unwrap().n(), 1);
    }
}
