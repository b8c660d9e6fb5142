//! Answers: from a session's logits to pieces of text.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chaski_models::{
    TokenId,
    tokenizer::{DecodeOptions, StreamDecoder, TextStart, Tokenizer},
};
use serde::Serialize;

use crate::{
    sampler::{LogProb, Sampler, log_probs},
    session::{Session, SessionError},
    stop::StopMatcher,
};

/// When an answer ends, and what is recorded of it.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// At most this many tokens; `None`: until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Tokens that end the answer; they are not part of its text.
    pub end_ids: Vec<TokenId>,
    /// Texts that end the answer; they and what follows are not part of it.
    pub stops: Vec<String>,
    /// Record the log-probability of each token and of this many likeliest ones.
    pub logprobs: Option<usize>,
    /// Whether the answer is a text of its own or goes on in the middle of one: then a space at its
    /// start, which SentencePiece vocabularies put before every text, is part of it.
    pub start: TextStart,
    /// Set by another thread (Ctrl-C) to end the answer after the token at hand.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it.
    End,
    /// A stop text was reached.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// It was cancelled.
    Cancelled,
}

/// One step of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The token; the last piece of an answer, which only shows text that was held back, has none.
    pub id: Option<TokenId>,
    /// Text that can be shown now: whole characters, nothing that may belong to a stop text.
    pub text: String,
    /// Log-probabilities, where they were asked for: the token's own, then the likeliest.
    pub logprobs: Option<(LogProb, Vec<LogProb>)>,
}

/// Times of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Tokens generated.
    pub n_generated: usize,
    /// Time spent on them, sampling included.
    pub generate: Duration,
}

/// Why an answer broke off.
#[derive(Debug)]
#[non_exhaustive]
pub enum GenerateError {
    /// The session has no logits: nothing was read yet.
    NothingRead,
    /// The session failed.
    Session(SessionError),
}

impl fmt::Display for GenerateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingRead => f.write_str("there is no text to continue"),
            Self::Session(_) => f.write_str("the answer broke off"),
        }
    }
}

impl Error for GenerateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Session(e) => Some(e),
            Self::NothingRead => None,
        }
    }
}

/// An answer in the making: an iterator of pieces.
///
/// The session's text grows by every token that was chosen, the ending one excluded, so that a
/// conversation can go on from there.
#[derive(Debug)]
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    tokenizer: &'a Tokenizer,
    options: GenerateOptions,
    decoder: StreamDecoder,
    stops: StopMatcher,
    /// Chosen, shown, but not read by the model yet: it is read only if the answer goes on.
    pending: Option<TokenId>,
    finish: Option<FinishReason>,
    flushed: bool,
    timings: Timings,
}

impl<'a> Generation<'a> {
    /// Continues the session's text.
    ///
    /// # Errors
    ///
    /// [`GenerateError::NothingRead`].
    pub fn new(
        session: &'a mut Session,
        sampler: &'a mut Sampler,
        tokenizer: &'a Tokenizer,
        options: GenerateOptions,
    ) -> Result<Self, GenerateError> {
        if session.logits().is_none() {
            return Err(GenerateError::NothingRead);
        }
        Ok(Self {
            decoder: StreamDecoder::new(DecodeOptions {
                start: options.start,
                ..DecodeOptions::default()
            }),
            stops: StopMatcher::new(&options.stops),
            session,
            sampler,
            tokenizer,
            options,
            pending: None,
            finish: None,
            flushed: false,
            timings: Timings::default(),
        })
    }

    /// Why the answer ended; `None` while it goes on.
    pub const fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Times so far.
    pub const fn timings(&self) -> Timings {
        self.timings
    }

    fn is_cancelled(&self) -> bool {
        self.options
            .cancel
            .as_ref()
            .is_some_and(|c| c.load(Relaxed))
    }

    fn step(&mut self) -> Result<Option<Piece>, GenerateError> {
        if self.is_cancelled() {
            self.finish = Some(FinishReason::Cancelled);
        } else if self
            .options
            .max_tokens
            .is_some_and(|n| self.timings.n_generated >= n)
        {
            self.finish = Some(FinishReason::Length);
        }
        if self.finish.is_some() {
            return Ok(None);
        }
        if let Some(token) = self.pending.take() {
            if self.session.tokens().len() >= self.session.context_len() {
                self.finish = Some(FinishReason::Context);
                return Ok(None);
            }
            self.session
                .extend(&[token])
                .map_err(GenerateError::Session)?;
        }
        let Some(logits) = self.session.logits() else {
            return Err(GenerateError::NothingRead);
        };
        let id = self.sampler.sample(logits);
        let logprobs = self.options.logprobs.map(|n| log_probs(logits, id, n));
        if self.options.end_ids.contains(&id) {
            self.finish = Some(FinishReason::End);
            return Ok(None);
        }
        self.timings.n_generated += 1;
        self.pending = Some(id);
        let (text, stopped) = self.stops.push(&self.decoder.push(self.tokenizer, id));
        if stopped {
            self.finish = Some(FinishReason::Stop);
            self.flushed = true;
        }
        Ok(Some(Piece {
            id: Some(id),
            text,
            logprobs,
        }))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = Instant::now();
        let step = if self.finish.is_none() {
            self.step()
        } else {
            Ok(None)
        };
        self.timings.generate += begin.elapsed();
        match step {
            Ok(Some(piece)) => Some(Ok(piece)),
            Ok(None) if !self.flushed => {
                self.flushed = true;
                let (mut text, stopped) = self.stops.push(&self.decoder.finish());
                if !stopped {
                    text += &self.stops.finish();
                }
                (!text.is_empty()).then_some(Ok(Piece {
                    id: None,
                    text,
                    logprobs: None,
                }))
            }
            Ok(None) => None,
            Err(e) => {
                self.finish = Some(FinishReason::Cancelled);
                self.flushed = true;
                Some(Err(e))
            }
        }
    }
}
