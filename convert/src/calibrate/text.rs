//! The text that the source model is watched reading.

use std::{error::Error, fmt};

use chaski_models::{
    TokenId,
    tokenizer::{Specials, Tokenizer, TokenizerError},
};
use sha2::{Digest, Sha256};

use crate::runner::RunnerError;

/// The text that ships with the program: prose, dialogue, code, numbers, several languages.
const DEFAULT: &str = include_str!("default.txt");

/// Tokens that are read at once, from an empty context.
pub(super) const CHUNK: usize = 512;
/// Chunks that are read at most; what follows in the text is left out.
const MAX_CHUNKS: usize = 32;
/// Fewer tokens than this say nothing about a model.
const MIN_TOKENS: usize = 128;

/// A text to calibrate with.
#[derive(Clone, PartialEq, Eq)]
pub struct Calibration {
    name: String,
    text: String,
}

impl fmt::Debug for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Calibration({}, {} bytes)", self.name, self.text.len())
    }
}

/// Why a text cannot be calibrated with, or the calibration failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CalibrationError {
    /// The text is empty or white space.
    Empty {
        /// Its name.
        name: String,
    },
    /// It is no text: it holds a NUL.
    NotText {
        /// Its name.
        name: String,
        /// Where the first one is, bytes from the start.
        at: usize,
    },
    /// It has too few tokens.
    TooShort {
        /// Its name.
        name: String,
        /// Its tokens.
        tokens: usize,
        /// Tokens that it needs.
        needed: usize,
    },
    /// The source has no tokenizer, so no text can be read.
    NoTokenizer,
    /// The tokenizer refused the text.
    Tokenizer(TokenizerError),
    /// The text has a token that the model has no embedding for.
    NoEmbedding {
        /// The token.
        token: TokenId,
    },
    /// The source model computed something that is not finite.
    NotFinite {
        /// Which matrix it would have entered.
        site: String,
    },
    /// The source model could not be run.
    Runner(RunnerError),
}

impl fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { name } => write!(f, "the calibration text {name} is empty"),
            Self::NotText { name, at } => write!(
                f,
                "the calibration text {name} is no text: byte {at} is NUL"
            ),
            Self::TooShort {
                name,
                tokens,
                needed,
            } => write!(
                f,
                "the calibration text {name} has {tokens} tokens, at least {needed} are needed; \
                 ten thousand are better"
            ),
            Self::NoTokenizer => {
                f.write_str("the source has no tokenizer, so there is no text to calibrate with")
            }
            Self::Tokenizer(_) => f.write_str("the calibration text cannot be tokenised"),
            Self::NoEmbedding { token } => write!(
                f,
                "the calibration text has token {token}, which the model has no embedding for"
            ),
            Self::NotFinite { site } => write!(
                f,
                "the source model computes numbers that are not finite: input of {site}"
            ),
            Self::Runner(_) => f.write_str("the source model could not be run"),
        }
    }
}

impl Error for CalibrationError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Tokenizer(cause) => Some(cause),
            Self::Runner(cause) => Some(&**cause),
            _ => None,
        }
    }
}

impl Calibration {
    /// The text that ships with the program.
    pub fn built_in() -> Self {
        Self {
            name: "default".to_owned(),
            text: DEFAULT.to_owned(),
        }
    }

    /// A text of one's own; `name` is what messages call it.
    ///
    /// # Errors
    ///
    /// It is empty, or no text.
    pub fn new(name: &str, text: String) -> Result<Self, CalibrationError> {
        let name = name.to_owned();
        if text.trim().is_empty() {
            return Err(CalibrationError::Empty { name });
        }
        if let Some(at) = text.bytes().position(|b| b == 0) {
            return Err(CalibrationError::NotText { name, at });
        }
        Ok(Self { name, text })
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is recorded of it: its name without directories is its user's own affair, so its digest
    /// stands for it, unless it is the program's.
    pub(crate) fn record(&self) -> String {
        let digest = Sha256::digest(self.text.as_bytes());
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        if self.text == DEFAULT {
            format!("default, sha256 {hex}")
        } else {
            format!("sha256 {hex}")
        }
    }

    /// Its tokens, as far as chunks are made of them.
    fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<TokenId>, CalibrationError> {
        // No token is longer than some hundred bytes on average, whatever the language.
        let most = MAX_CHUNKS * CHUNK * 64;
        let mut end = self.text.len().min(most);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let tokens = tokenizer
            .encode(&self.text[..end], Specials::AsText)
            .map_err(CalibrationError::Tokenizer)?;
        if tokens.len() < MIN_TOKENS {
            return Err(CalibrationError::TooShort {
                name: self.name.clone(),
                tokens: tokens.len(),
                needed: MIN_TOKENS,
            });
        }
        Ok(tokens)
    }

    /// Its tokens in chunks, each with the token that begins a text.
    ///
    /// * `context`: tokens that the model was made for; chunks are no longer, unless that would be too
    ///   few to say anything.
    pub(crate) fn chunks(
        &self,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Vec<Vec<TokenId>>, CalibrationError> {
        let tokens = self.tokens(tokenizer)?;
        let bos = tokenizer.bos();
        let own = CHUNK.min(context.max(MIN_TOKENS + 1)) - usize::from(bos.is_some());
        let chunks = tokens.chunks(own).take(MAX_CHUNKS);
        let chunks = chunks.filter(|c| c.len() >= MIN_TOKENS);
        Ok(chunks
            .map(|chunk| bos.into_iter().chain(chunk.iter().copied()).collect())
            .collect())
    }

    /// At most `n` pieces of `len` tokens, spread evenly over the text, each with the token that begins a
    /// text as its first; at least one, since a text has more tokens than that.
    ///
    /// # Panics
    ///
    /// If `len` is less than 2 or more than the fewest tokens of a text.
    pub(crate) fn pieces(
        &self,
        tokenizer: &Tokenizer,
        n: usize,
        len: usize,
    ) -> Result<Vec<Vec<TokenId>>, CalibrationError> {
        assert!((2..=MIN_TOKENS).contains(&len), "pieces of {len} tokens");
        let tokens = self.tokens(tokenizer)?;
        let bos = tokenizer.bos();
        let own = len - usize::from(bos.is_some());
        let n = n.clamp(1, tokens.len() / own);
        // The first one at the text's begin, the last one at its end.
        let at = |i: usize| i * (tokens.len() - own) / (n - 1).max(1);
        let piece = |i: usize| tokens[at(i)..at(i) + own].iter().copied();
        Ok((0..n)
            .map(|i| bos.into_iter().chain(piece(i)).collect())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use chaski_models::testing::tiny_tokenizer;

    use super::*;

    #[test]
    fn pieces_are_spread_from_the_begin_to_the_end() {
        let json = serde_json::to_vec(&tiny_tokenizer(320)).unwrap();
        let tokenizer = Tokenizer::from_hf(&json, None).unwrap();
        let text: String = Calibration::built_in().text().chars().take(4000).collect();
        let calibration = Calibration::new("t", text).unwrap();
        let all = calibration.tokens(&tokenizer).unwrap();
        let pieces = calibration.pieces(&tokenizer, 4, 96).unwrap();
        assert_eq!(pieces.len(), 4);
        let bos = usize::from(tokenizer.bos().is_some());
        for piece in &pieces {
            assert_eq!(piece.len(), 96);
            let own = &piece[bos..];
            assert!(all.windows(own.len()).any(|w| w == own));
        }
        assert_eq!(pieces[0][bos..], all[..96 - bos]);
        assert!(all.ends_with(&pieces[3][bos..]));
        // No more pieces than there are tokens for.
        let short: String = calibration.text().chars().take(700).collect();
        let short = Calibration::new("t", short).unwrap();
        let tokens = short.tokens(&tokenizer).unwrap().len();
        let pieces = short.pieces(&tokenizer, 100, 96).unwrap();
        assert_eq!(pieces.len(), tokens / (96 - bos));
        assert_eq!(short.pieces(&tokenizer, 1, 96).unwrap().len(), 1);
    }
}
