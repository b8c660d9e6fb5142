//! Texts that a model reads and continues.

mod error;
mod options;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chaski_models::{Backend, BackendError, Config, Row, TokenId};

pub use error::SessionError;
pub(crate) use options::limits;
pub use options::{DEFAULT_CONTEXT, MAX_CONTEXT, SessionOptions};

use crate::{
    backend::{
        GpuLayers, Placement, SplitBackend,
        cpu::{PassLimits, Team},
        cuda::{self, DeviceSummary, Opened},
    },
    model::Model,
    os::{self, ReadAhead},
};

/// A text in a model's context: its tokens, their keys and values, and the logits after the last.
///
/// All memory is allocated by [`Session::new`]; reading and continuing a text allocates nothing.
/// The logits after a text are the same bits however it was read: at once, in parts, token by
/// token, by going back and reading another continuation, as a fork of another text, or in one pass
/// with others.
///
/// A session with several [`sequences`](SessionOptions::sequences) holds as many texts. Methods that
/// do not name one are about the *selected* one, at first number 0.
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
    backend: SplitBackend,
    /// What there is to say about the GPU that was asked for.
    notes: Vec<String>,
    /// One for each sequence.
    texts: Vec<Text>,
    selected: usize,
    rows: Vec<Row>,
    /// `[max_logit_rows, vocab_size]`; of the last pass.
    logits: Vec<f32>,
    /// Rows of a pass whose logits can be asked for.
    max_logit_rows: usize,
    cancel: Option<Arc<AtomicBool>>,
    _read_ahead: Option<ReadAhead>,
}

#[derive(Debug)]
struct Text {
    tokens: Vec<TokenId>,
    /// The row of the last pass that has the logits after the last token.
    logits_row: Option<usize>,
}

/// A model whose file is read ahead.
struct MappedModel(Arc<Model>);

impl AsRef<[u8]> for MappedModel {
    fn as_ref(&self) -> &[u8] {
        let container = self.0.weights().container();
        &container.bytes()[container.data_range()]
    }
}

/// Bytes that a session allocates beside its backend.
pub(crate) fn own_bytes(config: &Config, limits: &PassLimits, logit_rows: usize) -> u64 {
    let logits = logit_rows * config.vocab_size * size_of::<f32>();
    let text = limits.context_len * size_of::<TokenId>() + size_of::<Text>();
    let tokens = limits.n_seqs * text;
    (logits + tokens + limits.rows * size_of::<Row>()) as u64
}

impl Session {
    /// Allocates everything and starts the threads.
    ///
    /// # Errors
    ///
    /// An option is out of its range, the threads cannot be started, or the layers that are to be on a
    /// GPU cannot be there.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self, SessionError> {
        let mut notes = Vec::new();
        let device = match options.gpu_layers {
            GpuLayers::Count(0) => None,
            GpuLayers::Auto => cuda::open_or_note(&mut notes),
            _ => Some(cuda::open().map_err(|source| SessionError::Cuda {
                gpu_layers: options.gpu_layers,
                source,
            })?),
        };
        Self::made(model, options, device, notes)
    }

    /// As [`new`](Self::new), with `device` for the GPU that the options ask for.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_device(
        model: &Arc<Model>,
        options: &SessionOptions,
        device: Opened,
    ) -> Result<Self, SessionError> {
        Self::made(model, options, Some(device), Vec::new())
    }

    fn made(
        model: &Arc<Model>,
        options: &SessionOptions,
        device: Option<Opened>,
        mut notes: Vec<String>,
    ) -> Result<Self, SessionError> {
        let (limits, max_logit_rows) = limits(model.config(), options)?;
        // First, so that the disk works while memory is allocated and threads start.
        let read_ahead = os::read_ahead(MappedModel(Arc::clone(model)));
        let team = if options.cpus.is_empty() {
            Team::new(limits.threads, os::n_cpus())
        } else {
            Team::pinned(limits.threads, &options.cpus)
        };
        let text = || Text {
            tokens: Vec::with_capacity(limits.context_len),
            logits_row: None,
        };
        let team = team.map_err(SessionError::Team)?;
        let refused = |source| SessionError::Cuda {
            gpu_layers: options.gpu_layers,
            source,
        };
        let placed = match device {
            None => None,
            Some(device) => {
                let weights = model.weights();
                let placement =
                    cuda::place(&device, weights, &limits, options.gpu_layers).map_err(refused)?;
                if placement.uses_gpu() {
                    Some((device, placement))
                } else {
                    if options.gpu_layers == GpuLayers::Auto {
                        notes.push(cuda::nothing_fits(&device));
                    }
                    None
                }
            }
        };
        let mut backend = match placed {
            None => SplitBackend::cpu(model, &limits, team),
            Some((device, placement)) => {
                SplitBackend::with_device(model, &limits, team, device, &placement)
                    .map_err(refused)?
            }
        };
        backend.round_activations(options.round_activations);
        Ok(Self {
            backend,
            notes,
            texts: (0..limits.n_seqs).map(|_| text()).collect(),
            selected: 0,
            rows: Vec::with_capacity(limits.rows),
            logits: vec![0.0; max_logit_rows * model.config().vocab_size],
            max_logit_rows,
            cancel: None,
            model: Arc::clone(model),
            _read_ahead: read_ahead,
        })
    }

    /// Where the model's layers are.
    pub fn placement(&self) -> Placement {
        self.backend.placement()
    }

    /// The GPU that has some of them, if one has.
    pub fn device(&self) -> Option<&DeviceSummary> {
        self.backend.device()
    }

    /// 10^9 bytes per second at which the GPU reads the weights that it has, if it has some.
    ///
    /// # Errors
    ///
    /// The GPU failed.
    pub fn device_read_bandwidth(&mut self) -> Result<Option<f64>, SessionError> {
        self.backend
            .device_read_bandwidth()
            .map_err(SessionError::Backend)
    }

    /// Lines for the user: what was decided without being an error.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        &self.texts[self.selected].tokens
    }

    /// The logits after the last token, `[vocab_size]`; `None` before a first text, after
    /// [`truncate`](Self::truncate), and once another sequence was read.
    pub fn logits(&self) -> Option<&[f32]> {
        let vocab_size = self.model.config().vocab_size;
        let row = self.texts[self.selected].logits_row?;
        Some(&self.logits[row * vocab_size..][..vocab_size])
    }

    /// Texts that the session can hold.
    pub fn n_sequences(&self) -> usize {
        self.texts.len()
    }

    /// The number of the selected sequence.
    pub const fn selected(&self) -> usize {
        self.selected
    }

    /// Selects a sequence.
    ///
    /// # Errors
    ///
    /// There is no such sequence.
    pub fn select(&mut self, seq: usize) -> Result<(), SessionError> {
        self.check_sequence(seq)?;
        self.selected = seq;
        Ok(())
    }

    fn check_sequence(&self, seq: usize) -> Result<(), SessionError> {
        let n_sequences = self.texts.len();
        if seq < n_sequences {
            return Ok(());
        }
        Err(SessionError::Sequence { seq, n_sequences })
    }

    /// Makes sequence `to` the same text as the selected one, which it may then continue in its own
    /// way. Nothing is computed and no key or value is copied: the two share the pages of the KV
    /// cache until one of them writes into the last one.
    ///
    /// ```
    /// # use chaski::{Model, Session, SessionError, SessionOptions};
    /// # use chaski_models::TokenId;
    /// # use std::sync::Arc;
    /// /// Reads a question once and goes on with two answers, both in each pass.
    /// fn two_answers(
    ///     model: &Arc<Model>,
    ///     question: &[TokenId],
    ///     choose: impl Fn(usize, &[f32]) -> TokenId,
    /// ) -> Result<Session, SessionError> {
    ///     let options = SessionOptions { sequences: 2, ..SessionOptions::default() };
    ///     let mut session = Session::new(model, &options)?;
    ///     session.extend(question)?;
    ///     session.fork(1)?;
    ///     for _ in 0..20 {
    ///         let mut step = [(0, TokenId(0)), (1, TokenId(0))];
    ///         for (seq, token) in &mut step {
    ///             session.select(*seq)?;
    ///             *token = choose(*seq, session.logits().unwrap_or_default());
    ///         }
    ///         session.step(&step)?;
    ///     }
    ///     Ok(session)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// There is no sequence `to`.
    pub fn fork(&mut self, to: usize) -> Result<(), SessionError> {
        self.check_sequence(to)?;
        if to != self.selected {
            let len = self.tokens().len();
            self.share(self.selected, to, len);
            self.texts[to].logits_row = self.texts[self.selected].logits_row;
        }
        Ok(())
    }

    /// Makes the first `len` positions of sequence `from` the text of sequence `to`.
    fn share(&mut self, from: usize, to: usize, len: usize) {
        self.backend.fork(from, to, len);
        if let Ok([from, to]) = self.texts.get_disjoint_mut([from, to]) {
            to.tokens.clear();
            to.tokens.extend_from_slice(&from.tokens[..len]);
            to.logits_row = None;
        }
    }

    /// Reads one token of each of several sequences, in one pass: `(sequence, token)`. The logits
    /// after each are there when it is selected.
    ///
    /// # Errors
    ///
    /// Nothing is read if there are none, a sequence does not exist or is named twice, a token does
    /// not exist or a context is full. If the pass fails, no text has changed.
    pub fn step(&mut self, tokens: &[(usize, TokenId)]) -> Result<(), SessionError> {
        if tokens.is_empty() {
            return Err(SessionError::Empty);
        }
        for (i, &(seq, token)) in tokens.iter().enumerate() {
            self.check_sequence(seq)?;
            if tokens[..i].iter().any(|t| t.0 == seq) {
                let n_sequences = self.texts.len();
                return Err(SessionError::Sequence { seq, n_sequences });
            }
            self.check(self.texts[seq].tokens.len() + 1, &[token])?;
        }
        self.rows.clear();
        for &(seq, token) in tokens {
            self.rows.push(Row {
                seq,
                pos: self.texts[seq].tokens.len(),
                token,
                logits: true,
            });
        }
        self.forward(tokens.len())?;
        for (row, &(seq, token)) in tokens.iter().enumerate() {
            self.texts[seq].tokens.push(token);
            self.texts[seq].logits_row = Some(row);
        }
        Ok(())
    }

    /// Lets another thread (Ctrl-C) stop the reading of a long text: `flag` is looked at before each
    /// pass.
    pub fn set_cancel(&mut self, flag: Option<Arc<AtomicBool>>) {
        self.cancel = flag;
    }

    /// Forgets the text from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        let text = &mut self.texts[self.selected];
        if len < text.tokens.len() {
            text.tokens.truncate(len);
            text.logits_row = None;
            self.backend.truncate(self.selected, len);
        }
    }

    /// Forgets the text.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Makes `tokens` the text and returns how many of them were known already: the beginning that
    /// they have in common with the text, or with that of another sequence if it is longer, is not
    /// computed again. The last token is, if nothing follows, so that there are logits.
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend); the text is then the part that was read.
    pub fn set_text(&mut self, tokens: &[TokenId]) -> Result<usize, SessionError> {
        self.check(tokens.len(), tokens)?;
        let known = |text: &Text| {
            let pairs = text.tokens.iter().zip(tokens);
            let known = pairs.take_while(|(a, b)| a == b).count();
            known.min(tokens.len().saturating_sub(1))
        };
        let (mut from, mut keep) = (self.selected, known(&self.texts[self.selected]));
        for (seq, text) in self.texts.iter().enumerate() {
            let known = known(text);
            if known > keep {
                (from, keep) = (seq, known);
            }
        }
        if from == self.selected {
            self.truncate(keep);
        } else {
            self.share(from, self.selected, keep);
        }
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
        self.check(self.tokens().len() + tokens.len(), tokens)?;
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
        self.texts[self.selected].logits_row = Some(0);
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
        let seq = self.selected;
        let start = self.texts[seq].tokens.len();
        self.rows.clear();
        self.rows
            .extend(tokens.iter().enumerate().map(|(i, &token)| Row {
                seq,
                pos: start + i,
                token,
                logits: i >= wanted,
            }));
        let n_wanted = tokens.len().saturating_sub(wanted);
        self.forward(n_wanted)?;
        self.texts[seq].tokens.extend_from_slice(tokens);
        Ok(n_wanted)
    }

    /// One pass over `self.rows`, of which `n_wanted` want logits.
    fn forward(&mut self, n_wanted: usize) -> Result<(), SessionError> {
        // They are about to be overwritten.
        self.texts.iter_mut().for_each(|t| t.logits_row = None);
        let logits = &mut self.logits[..n_wanted * self.model.config().vocab_size];
        self.backend
            .forward(&self.rows, logits)
            .map_err(|error| match error {
                BackendError::NotFinite { row, .. } => SessionError::NotFinite {
                    pos: self.rows[row].pos,
                },
                error => SessionError::Backend(error),
            })
    }
}
