//! A text that a model reads and continues.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chaski_models::{Backend, BackendError, Row, TokenId};
use chaski_quant::scalar::attention::KvType;

use crate::{
    backend::cpu::{CpuBackend, PassLimits, TeamError},
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
    /// Reading was cancelled; the session's text is what was read.
    Cancelled {
        /// Tokens read.
        read: usize,
        /// Tokens that were to be read.
        of: usize,
    },
    /// The threads could not be started.
    Team(TeamError),
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
                 passes, try a larger type"
            ),
            Self::Empty => f.write_str("there is no token to read"),
            Self::Cancelled { read, of } => {
                write!(f, "cancelled after {read} of {of} tokens were read")
            }
            Self::Team(_) => f.write_str("the session's threads could not be started"),
            Self::Backend(_) => f.write_str("the model could not be run"),
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Team(e) => Some(e),
            Self::Backend(e) => Some(e),
            _ => None,
        }
    }
}

/// A text in a model's context: its tokens, their keys and values, and the logits after the last.
///
/// All memory is allocated by [`Session::new`]; reading and continuing a text allocates nothing.
/// The logits after a text are the same bits however it was read: at once, in parts, token by
/// token, or by going back and reading another continuation.
///
/// ```
/// # use chaski::{Model, Session, SessionError, SessionOptions};
/// # use chaski_models::TokenId;
/// # use std::sync::Arc;
/// fn likeliest_of(model: &Arc<Model>, texts: [&[TokenId]; 2]) -> Result<usize, SessionError> {
///     let mut session = Session::new(model, &SessionOptions::default())?;
///     let mut best = [0.0; 2];
///     for (text, best) in texts.into_iter().zip(&mut best) {
///         // What the texts have in common is read once.
///         session.set_text(text)?;
///         let logits = session.logits().unwrap_or_default();
///         *best = logits.iter().fold(f32::MIN, |m, &l| if l > m { l } else { m });
///     }
///     Ok(usize::from(best[1] > best[0]))
/// }
/// ```
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    backend: CpuBackend,
    tokens: Vec<TokenId>,
    rows: Vec<Row>,
    /// `[logit_rows, vocab_size]`; of the last pass.
    logits: Vec<f32>,
    /// Rows of a pass whose logits can be asked for.
    max_logit_rows: usize,
    /// Whether the first logits are those after the last token.
    has_logits: bool,
    cancel: Option<Arc<AtomicBool>>,
}

/// The sizes that `options` stand for: of the backend, and the rows of logits.
pub(crate) fn limits(
    model: &Model,
    options: &SessionOptions,
) -> Result<(PassLimits, usize), SessionError> {
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
    let rows = check("a batch", options.ubatch, 1 << 16)?.min(context_len);
    let logit_rows = check("a number of logit rows", options.logit_rows, 1 << 16)?.min(rows);
    let limits = PassLimits {
        rows,
        n_seqs: 1,
        context_len,
        threads: check("a number of threads", threads, 1024)?,
        kv_type: options.kv_type,
    };
    Ok((limits, logit_rows))
}

/// Bytes that a session allocates beside its backend.
pub(crate) fn own_bytes(model: &Model, limits: &PassLimits, logit_rows: usize) -> u64 {
    let logits = logit_rows * model.config().vocab_size * size_of::<f32>();
    let tokens = limits.context_len * size_of::<TokenId>();
    (logits + tokens + limits.rows * size_of::<Row>()) as u64
}

impl Session {
    /// Allocates everything and starts the threads.
    ///
    /// # Errors
    ///
    /// An option is out of its range, or the threads cannot be started.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self, SessionError> {
        let (limits, max_logit_rows) = limits(model, options)?;
        Ok(Self {
            backend: CpuBackend::new(model, &limits).map_err(SessionError::Team)?,
            tokens: Vec::with_capacity(limits.context_len),
            rows: Vec::with_capacity(limits.rows),
            logits: vec![0.0; max_logit_rows * model.config().vocab_size],
            max_logit_rows,
            has_logits: false,
            cancel: None,
            model: Arc::clone(model),
        })
    }

    /// The model.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What was allocated.
    pub const fn limits(&self) -> &PassLimits {
        self.backend.limits()
    }

    /// Positions that there are.
    pub const fn context_len(&self) -> usize {
        self.backend.limits().context_len
    }

    /// The text so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The logits after the last token, `[vocab_size]`; `None` before a first text and after
    /// [`truncate`](Self::truncate).
    pub fn logits(&self) -> Option<&[f32]> {
        self.has_logits
            .then(|| &self.logits[..self.model.config().vocab_size])
    }

    /// Lets another thread (Ctrl-C) stop the reading of a long text: `flag` is looked at before each
    /// pass.
    pub fn set_cancel(&mut self, flag: Option<Arc<AtomicBool>>) {
        self.cancel = flag;
    }

    /// Forgets the text from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.backend.truncate(0, len);
            self.has_logits = false;
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
    /// Nothing is read if there are none, they do not fit or one does not exist. If a pass fails or
    /// reading is cancelled, the text is what was read before.
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
        let vocab_size = self.model.config().vocab_size;
        let mut done = 0;
        while done < tokens.len() {
            if self
                .cancel
                .as_ref()
                .is_some_and(|flag| flag.load(Ordering::Relaxed))
            {
                return Err(SessionError::Cancelled {
                    read: done,
                    of: tokens.len(),
                });
            }
            // As many rows as a pass takes, and as many wanted logits.
            let wanted_from = first.max(done);
            let n = (tokens.len() - done)
                .min(self.backend.limits().rows)
                .min(wanted_from - done + self.max_logit_rows);
            let n_wanted = self.pass(&tokens[done..done + n], wanted_from - done)?;
            for (i, logits) in self
                .logits
                .chunks_exact(vocab_size)
                .take(n_wanted)
                .enumerate()
            {
                sink(wanted_from + i, logits);
            }
            done += n;
            if done == tokens.len() {
                // The last of them is what `logits` shows.
                let last = (n_wanted - 1) * vocab_size;
                self.logits.copy_within(last..last + vocab_size, 0);
            }
        }
        self.has_logits = true;
        Ok(())
    }

    /// Whether `tokens` exist and fit when the last of them is at position `needed - 1`.
    fn check(&self, needed: usize, tokens: &[TokenId]) -> Result<(), SessionError> {
        let vocab_size = self.model.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|t| t.index() >= vocab_size) {
            return Err(SessionError::NoSuchToken { token, vocab_size });
        }
        let context_len = self.context_len();
        if needed > context_len {
            return Err(SessionError::ContextFull {
                needed,
                context_len,
            });
        }
        Ok(())
    }

    /// One pass over at most `limits.rows` tokens; logits are wanted from the `wanted`th on. Gives
    /// their number.
    fn pass(&mut self, tokens: &[TokenId], wanted: usize) -> Result<usize, SessionError> {
        let start = self.tokens.len();
        self.has_logits = false;
        self.rows.clear();
        self.rows
            .extend(tokens.iter().enumerate().map(|(i, &token)| {
                let (seq, pos, logits) = (0, start + i, i >= wanted);
                Row {
                    seq,
                    pos,
                    token,
                    logits,
                }
            }));
        let n_wanted = tokens.len().saturating_sub(wanted);
        let logits = &mut self.logits[..n_wanted * self.model.config().vocab_size];
        self.backend
            .forward(&self.rows, logits)
            .map_err(|error| match error {
                BackendError::NotFinite { row, .. } => SessionError::NotFinite {
                    pos: self.rows[row].pos,
                },
                error => SessionError::Backend(error),
            })?;
        self.tokens.extend_from_slice(tokens);
        Ok(n_wanted)
    }
}
