//! A text that a model reads and continues.

use std::{error::Error, fmt, sync::Arc};

use chaski_models::{TokenId, forward::Row};
use chaski_quant::scalar::attention::{KV_TILE, KvType};

use crate::{
    backend::cpu::{
        Buffers, KvCache, KvShape, OutOfPages, PassError, PassLimits, Team, TeamError, forward,
    },
    model::Model,
    os,
};

/// The default of [`SessionOptions::context_len`], where the model allows as many.
pub const DEFAULT_CONTEXT: usize = 4096;
/// The largest context that can be asked for.
pub const MAX_CONTEXT: usize = 1 << 24;

/// What a session allocates.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Positions to allocate; `None`: the model's own number, at most [`DEFAULT_CONTEXT`].
    pub context_len: Option<usize>,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Positions computed at once while a text is read.
    pub ubatch: usize,
    /// Threads; `None`: the physical cores this process may use.
    pub threads: Option<usize>,
    /// Rows of a pass whose logits can be asked for; 1 serves all but evaluation.
    pub logit_rows: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            context_len: None,
            kv_type: KvType::F16,
            ubatch: 256,
            threads: None,
            logit_rows: 1,
        }
    }
}

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
    /// Nothing was given to read.
    Empty,
    /// The KV cache ran out of pages.
    OutOfPages(OutOfPages),
    /// The threads could not be started.
    Team(TeamError),
    /// A pass failed.
    Pass(PassError),
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
                 passes, try a larger type"
            ),
            Self::Empty => f.write_str("there is no token to read"),
            Self::OutOfPages(_) => f.write_str("the KV cache is full"),
            Self::Team(_) => f.write_str("the session's threads could not be started"),
            Self::Pass(_) => f.write_str("the model could not be run"),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::OutOfPages(e) => Some(e),
            Self::Team(e) => Some(e),
            Self::Pass(e) => Some(e),
            _ => None,
        }
    }
}

/// A text in a model's context: its tokens, their keys and values, and the logits after the last.
///
/// All memory is allocated by [`Session::new`]; reading and continuing a text allocates nothing.
/// The logits after a text are the same bits however it was read: at once, in parts, token by
/// token, or by going back and reading another continuation.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    limits: PassLimits,
    team: Team,
    buffers: Buffers,
    kv: KvCache,
    pages: Vec<u32>,
    tokens: Vec<TokenId>,
    rows: Vec<Row>,
    logit_rows: Vec<usize>,
    /// Whether the first logits are those after the last token.
    has_logits: bool,
}

/// The sizes that `options` stand for.
pub(crate) fn limits(model: &Model, options: &SessionOptions) -> Result<PassLimits, SessionError> {
    let check = |what, got: usize, max: usize| {
        if (1..=max).contains(&got) {
            Ok(got)
        } else {
            Err(SessionError::Option { what, got, max })
        }
    };
    let context = options
        .context_len
        .unwrap_or_else(|| model.config().max_seq_len.min(DEFAULT_CONTEXT));
    let context_len = check("a context", context, MAX_CONTEXT)?;
    let threads = options.threads.unwrap_or_else(os::default_threads);
    Ok(PassLimits {
        rows: check("a batch", options.ubatch, 1 << 16)?.min(context_len),
        logit_rows: check("a number of logit rows", options.logit_rows, 1 << 16)?
            .min(options.ubatch),
        context_len,
        threads: check("a number of threads", threads, 1024)?,
        kv_type: options.kv_type,
    })
}

/// What a page of the session's KV cache holds.
pub(crate) fn kv_shape(model: &Model, limits: &PassLimits) -> KvShape {
    let c = model.config();
    KvShape {
        kv_type: limits.kv_type,
        n_layers: c.n_layers,
        n_kv_heads: c.n_kv_heads,
        head_dim: c.head_dim,
    }
}

impl Session {
    /// Allocates everything and starts the threads.
    ///
    /// # Errors
    ///
    /// An option is out of its range, or the threads cannot be started.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self, SessionError> {
        let limits = limits(model, options)?;
        let shape = kv_shape(model, &limits);
        let n_pages = shape.pages(limits.context_len);
        Ok(Self {
            team: Team::new(limits.threads).map_err(SessionError::Team)?,
            buffers: Buffers::new(model.config(), &limits),
            kv: KvCache::new(shape, n_pages),
            pages: Vec::with_capacity(n_pages),
            tokens: Vec::with_capacity(limits.context_len),
            rows: Vec::with_capacity(limits.rows),
            logit_rows: Vec::with_capacity(limits.logit_rows),
            has_logits: false,
            limits,
            model: Arc::clone(model),
        })
    }

    /// The model.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What was allocated.
    pub const fn limits(&self) -> &PassLimits {
        &self.limits
    }

    /// Positions that there are.
    pub const fn context_len(&self) -> usize {
        self.limits.context_len
    }

    /// The text so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The logits after the last token, `[vocab_size]`; `None` before a first text and after
    /// [`truncate`](Self::truncate).
    pub fn logits(&mut self) -> Option<&[f32]> {
        let vocab_size = self.model.config().vocab_size;
        self.has_logits.then(|| self.buffers.logits(0, vocab_size))
    }

    /// Forgets the text from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.tokens.len() {
            return;
        }
        self.tokens.truncate(len);
        self.has_logits = false;
        for page in self.pages.drain(len.div_ceil(KV_TILE)..) {
            self.kv.release(page);
        }
    }

    /// Forgets the text.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Makes `tokens` the text and returns how many of them were known already: a common beginning
    /// is kept, but its last token is read again if nothing follows, so that there are logits.
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend); the text is then the part that was read.
    pub fn set_text(&mut self, tokens: &[TokenId]) -> Result<usize, SessionError> {
        let known = self
            .tokens
            .iter()
            .zip(tokens)
            .take_while(|(a, b)| a == b)
            .count();
        let keep = known.min(tokens.len().saturating_sub(1));
        self.check(tokens.len(), tokens)?;
        self.truncate(keep);
        self.extend(&tokens[keep..])?;
        Ok(keep)
    }

    /// Reads `tokens` after the text so far; the logits are then those after the last of them.
    ///
    /// # Errors
    ///
    /// Nothing is read if there are none, they do not fit or one does not exist. If a pass fails,
    /// the text is what was read before it.
    pub fn extend(&mut self, tokens: &[TokenId]) -> Result<(), SessionError> {
        self.extend_with(tokens, tokens.len().saturating_sub(1), &mut |_, _| {})
    }

    /// As [`extend`](Self::extend), and hands the logits after each token from `tokens[first]` on to
    /// `sink`, with the token's index in `tokens`.
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend).
    pub fn extend_with(
        &mut self,
        tokens: &[TokenId],
        first: usize,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SessionError> {
        self.check(self.tokens.len() + tokens.len(), tokens)?;
        if tokens.is_empty() {
            return Err(SessionError::Empty);
        }
        let first = first.min(tokens.len() - 1);
        let mut done = 0;
        while done < tokens.len() {
            // As many rows as a pass takes, and as many wanted logits.
            let wanted_from = first.max(done);
            let n = (tokens.len() - done)
                .min(self.limits.rows)
                .min(wanted_from - done + self.limits.logit_rows);
            self.pass(&tokens[done..done + n], wanted_from - done)?;
            let vocab_size = self.model.config().vocab_size;
            for i in 0..self.logit_rows.len() {
                let logits = self.buffers.logits(i, vocab_size);
                if !logits.iter().all(|l| l.is_finite()) {
                    return Err(SessionError::NotFinite {
                        pos: self.rows[self.logit_rows[i]].pos,
                    });
                }
                sink(done + self.logit_rows[i], logits);
            }
            done += n;
        }
        // The last pass ended with one or more wanted rows; the last one is what `logits` shows.
        self.has_logits = true;
        let last = self.logit_rows.len() - 1;
        if last > 0 {
            let vocab_size = self.model.config().vocab_size;
            self.buffers.move_logits_to_front(last, vocab_size);
        }
        Ok(())
    }

    /// Whether `tokens` exist and fit when the last of them is at position `needed - 1`.
    fn check(&self, needed: usize, tokens: &[TokenId]) -> Result<(), SessionError> {
        let vocab_size = self.model.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|t| t.index() >= vocab_size) {
            return Err(SessionError::NoSuchToken { token, vocab_size });
        }
        let context_len = self.limits.context_len;
        if needed > context_len {
            return Err(SessionError::ContextFull {
                needed,
                context_len,
            });
        }
        Ok(())
    }

    /// One pass over at most `limits.rows` tokens; logits are wanted from the `wanted`th on.
    fn pass(&mut self, tokens: &[TokenId], wanted: usize) -> Result<(), SessionError> {
        let start = self.tokens.len();
        self.has_logits = false;
        while self.pages.len() * KV_TILE < start + tokens.len() {
            self.pages
                .push(self.kv.take().map_err(SessionError::OutOfPages)?);
        }
        self.rows.clear();
        self.logit_rows.clear();
        for (i, &token) in tokens.iter().enumerate() {
            let logits = i >= wanted;
            self.rows.push(Row {
                seq: 0,
                pos: start + i,
                token,
                logits,
            });
            if logits {
                self.logit_rows.push(i);
            }
        }
        forward(
            &mut self.team,
            self.model.weights(),
            self.model.kernels(),
            &mut self.buffers,
            &mut self.kv,
            &[&self.pages[..]],
            &self.rows,
            &self.logit_rows,
        )
        .map_err(SessionError::Pass)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}
