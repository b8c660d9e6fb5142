//! One call of the backend: check the rows, find their pages, let the team walk.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use chaski_models::{
    Backend, BackendError, Config, Row,
    forward::{Observed, RowLimits, check_rows, kv::KvGeometry, kv::spans},
};

use chaski_quant::scalar::attention::KvType;

use super::{
    buffers::{Buffers, PassLimits, ROW_BLOCK, RowIndex, Slot},
    kv::{KvCache, PageCopy, PageTable},
    schedule::{AttendBy, Begin, Buf, Shape},
    shared::view::Pass,
    team::{Team, TeamError},
    worker::{ActViews, Job, Observer, work},
};
use crate::model::Model;

/// Work units of attention that a pass of many rows is cut into, at least, if it has as many rows.
const ATTEND_UNITS: usize = 64;

/// A model on the CPU, or its first layers, with the KV cache of some sequences.
///
/// Everything is allocated by [`CpuBackend::new`]; [`Backend::forward`] allocates nothing and takes
/// no lock. The logits of a row are the same bits whatever the number of threads, the other rows of
/// the call, and the calls that stored the positions before it.
#[derive(Debug)]
pub struct CpuBackend {
    model: Arc<Model>,
    limits: PassLimits,
    team: Team,
    buffers: Buffers,
    kv: KvCache,
    /// Pages that the last pass copied.
    copies: Vec<PageCopy>,
    rounded: bool,
}

/// Bytes that a [`CpuBackend`] allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuBytes {
    /// Keys and values.
    pub kv_cache: u64,
    /// What all threads share.
    pub activations: u64,
    /// What each thread has for itself, all threads together.
    pub scratch: u64,
}

impl CpuBackend {
    /// Allocates everything and starts the threads.
    ///
    /// # Errors
    ///
    /// If the threads cannot be started.
    pub fn new(model: &Arc<Model>, limits: &PassLimits) -> Result<Self, TeamError> {
        let team = Team::new(limits.threads, crate::os::n_cpus())?;
        Ok(Self::with_team(model, limits, team))
    }

    /// Allocates everything for a team that there is; it has the threads, whatever `limits` says.
    pub fn with_team(model: &Arc<Model>, limits: &PassLimits, team: Team) -> Self {
        Self::with_layers(model, limits, team, model.config().n_layers)
    }

    /// As [`with_team`](Self::with_team), and keeps keys and values of the first `n_layers` layers
    /// only: another machine has the others.
    pub(crate) fn with_layers(
        model: &Arc<Model>,
        limits: &PassLimits,
        team: Team,
        n_layers: usize,
    ) -> Self {
        let limits = PassLimits {
            threads: team.n_threads(),
            ..*limits
        };
        let geometry = geometry(model.config(), limits.kv_type, n_layers);
        let n_pages = limits.n_seqs * KvGeometry::n_pages(limits.context_len);
        Self {
            team,
            buffers: Buffers::new(model.config(), &limits),
            kv: KvCache::new(geometry, n_pages, limits.n_seqs, limits.context_len),
            copies: Vec::with_capacity(limits.n_seqs),
            limits,
            rounded: false,
            model: Arc::clone(model),
        }
    }

    /// Bytes that `new` with these arguments allocates, but for a few kilobytes of each thread
    /// (its stack is the system's).
    pub fn bytes(config: &Config, limits: &PassLimits) -> CpuBytes {
        Self::bytes_with_layers(config, limits, config.n_layers)
    }

    /// The same of a backend that has the first `n_layers` layers.
    pub(crate) fn bytes_with_layers(
        config: &Config,
        limits: &PassLimits,
        n_layers: usize,
    ) -> CpuBytes {
        let (activations, own) = Buffers::bytes(config, limits);
        let geometry = geometry(config, limits.kv_type, n_layers);
        let n_pages = limits.n_seqs * KvGeometry::n_pages(limits.context_len);
        let kv = KvCache::bytes(&geometry, n_pages, limits.n_seqs, limits.context_len)
            + limits.n_seqs * size_of::<PageCopy>();
        CpuBytes {
            kv_cache: kv as u64,
            activations,
            scratch: own * limits.threads.max(1) as u64,
        }
    }

    /// The model.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// How large passes may be.
    pub const fn limits(&self) -> &PassLimits {
        &self.limits
    }

    /// Lets float matrices multiply activations that were quantised and are read back, `f32(code) * d`,
    /// as quantised matrices do; or not, which is the default. Only to measure what the activations'
    /// 8 bits cost by themselves.
    pub const fn round_activations(&mut self, rounded: bool) {
        self.rounded = rounded;
    }

    /// Positions stored of sequence `seq`.
    ///
    /// # Panics
    ///
    /// If there is no such sequence.
    pub fn n_stored(&self, seq: usize) -> usize {
        self.kv.pages().len(seq)
    }

    /// Forgets the positions of sequence `seq` from `len` on.
    ///
    /// # Panics
    ///
    /// If there is no such sequence.
    pub fn truncate(&mut self, seq: usize, len: usize) {
        self.kv.truncate(seq, len);
    }

    /// Makes sequence `to` begin as the first `len` positions of sequence `from`. The pages are
    /// shared until one of the two writes into them.
    ///
    /// # Panics
    ///
    /// If `from` has fewer positions stored, or the sequences are the same.
    pub fn fork(&mut self, from: usize, to: usize, len: usize) {
        self.kv.fork(from, to, len);
    }

    /// Which pages there are, for a machine that has bytes of them too.
    pub(crate) fn pages(&self) -> &PageTable {
        self.kv.pages()
    }

    /// The copies of pages that the last [`prepare`](Self::prepare) made.
    pub(crate) fn copies(&self) -> &[PageCopy] {
        &self.copies
    }

    /// Checks the rows of a pass and takes pages for them.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`].
    pub(crate) fn prepare(&mut self, rows: &[Row], logits_len: usize) -> Result<(), BackendError> {
        let limits = RowLimits {
            max_rows: self.limits.rows,
            n_seqs: self.limits.n_seqs,
            context_len: self.limits.context_len,
            vocab_size: self.model.config().vocab_size,
        };
        self.copies.clear();
        check_rows(rows, logits_len, &limits, |seq| self.kv.pages().len(seq))?;
        self.reserve(rows).inspect_err(|_| self.forget(rows))
    }

    /// Takes pages for the rows.
    fn reserve(&mut self, rows: &[Row]) -> Result<(), BackendError> {
        for (i, row) in rows.iter().enumerate() {
            // The first row of its sequence: rows of a sequence are consecutive positions.
            if rows[..i].iter().any(|r| r.seq == row.seq) {
                continue;
            }
            let n = rows[i..].iter().filter(|r| r.seq == row.seq).count();
            let copy = self
                .kv
                .reserve(row.seq, row.pos..row.pos + n)
                .map_err(|full| BackendError::KvFull {
                    n_pages: full.n_pages,
                })?;
            self.copies.extend(copy);
        }
        Ok(())
    }

    /// Gives the pages of the rows back.
    pub(crate) fn forget(&mut self, rows: &[Row]) {
        for row in rows.iter().rev() {
            self.kv.truncate(row.seq, row.pos);
        }
    }

    /// As [`Backend::forward`], and shows `observer` the rows that enter each layer and each matrix,
    /// in the order of the walk. The results are the same bits.
    ///
    /// The observer is called by one of the threads while the others may wait for it: it should
    /// only copy.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`].
    pub fn forward_observed(
        &mut self,
        rows: &[Row],
        logits: &mut [f32],
        observer: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<(), BackendError> {
        let observer = Mutex::new(observer);
        self.forward_by(
            rows,
            logits,
            Some(&|seen: Observed<'_>| {
                // A panic in an earlier call ended the pass.
                let mut observer = observer.lock().unwrap_or_else(PoisonError::into_inner);
                (*observer)(seen);
            }),
        )
    }

    /// The hidden states that the last pass left behind its last layer, `[rows, dim]`: those that
    /// would enter the head's norm. Of no meaning after an error.
    pub fn hidden(&self) -> &[f32] {
        let n = self.buffers.index.rows.len() * self.model.config().dim;
        &self.buffers.x[..n]
    }

    fn forward_by(
        &mut self,
        rows: &[Row],
        logits: &mut [f32],
        observer: Option<&Observer<'_>>,
    ) -> Result<(), BackendError> {
        self.prepare(rows, logits.len())?;
        self.set_rows(rows);
        self.run(Begin::Tokens, logits, observer)
            .inspect_err(|_| self.forget(rows))
    }

    fn set_rows(&mut self, rows: &[Row]) {
        let (config, buffers) = (self.model.config(), &mut self.buffers);
        buffers.index.set(config, rows, buffers.max_slots);
    }

    /// Computes the first layers, of rows that were [`prepare`](Self::prepare)d.
    ///
    /// # Errors
    ///
    /// A thread panicked.
    pub(crate) fn forward_layers(&mut self, rows: &[Row]) -> Result<(), BackendError> {
        self.set_rows(rows);
        self.buffers.index.head_rows.clear();
        self.run(Begin::Tokens, &mut [], None)
    }

    /// Cosines and sines of the positions of the last pass's rows, `[rows, head_dim]`.
    pub(crate) fn rotations(&self) -> &[f32] {
        let n = self.buffers.index.rows.len() * self.model.config().head_dim;
        &self.buffers.rope[..n]
    }

    /// Room for the hidden states of `n_rows` rows, `[n_rows, dim]`, for
    /// [`forward_head`](Self::forward_head).
    pub(crate) fn hidden_mut(&mut self, n_rows: usize) -> &mut [f32] {
        &mut self.buffers.x[..n_rows * self.model.config().dim]
    }

    /// Computes the logits of the first `n_rows` hidden states that [`hidden_mut`](Self::hidden_mut)
    /// holds. A logit that is not finite is told by its index among them.
    ///
    /// # Errors
    ///
    /// A thread panicked, or a logit is not finite.
    pub(crate) fn forward_head(
        &mut self,
        n_rows: usize,
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        let index = &mut self.buffers.index;
        index.head_rows.clear();
        index.head_rows.extend(0..n_rows);
        index.slots.clear();
        self.run(Begin::Hidden, logits, None)
    }

    /// One walk over the rows of the index.
    fn run(
        &mut self,
        begin: Begin,
        logits: &mut [f32],
        observer: Option<&Observer<'_>>,
    ) -> Result<(), BackendError> {
        let Self {
            model,
            team,
            buffers,
            kv,
            rounded,
            ..
        } = self;
        let (weights, config) = (model.weights(), model.config());
        let Buffers {
            x,
            rope,
            norm,
            q,
            states,
            attn,
            ffn,
            scratch,
            index,
            ..
        } = buffers;
        let geometry = *kv.geometry();
        let (kv_bytes, pages) = kv.parts_mut();
        let n_rows = match begin {
            Begin::Tokens => index.rows.len(),
            Begin::Hidden => index.head_rows.len(),
        };
        let pass = Pass::new(Shape {
            begin,
            n_workers: team.n_threads(),
            n_rows,
            n_head_rows: index.head_rows.len(),
            attend: attend_by(config, n_rows, index.slots.len()),
            dim: config.dim,
            ffn_dim: config.ffn_dim,
            n_heads: config.n_heads,
            vocab_size: config.vocab_size,
            kv: geometry,
            n_pages: pages.n_pages(),
            observed: observer.is_some(),
            rounded: *rounded,
        });
        let not_finite = AtomicUsize::new(usize::MAX);
        let job = Job {
            weights,
            config,
            kernels: model.kernels(),
            shape: pass.shape(),
            index,
            pages,
            x: pass.view(Buf::X, x),
            rope: pass.view(Buf::Rope, rope),
            norm: ActViews::new(&pass, Buf::Norm, norm),
            q: pass.view(Buf::Q, q),
            kv: pass.view(Buf::Kv, kv_bytes),
            states: pass.view(Buf::States, states),
            attn: ActViews::new(&pass, Buf::Attn, attn),
            ffn: ActViews::new(&pass, Buf::Ffn, ffn),
            logits: pass.view(Buf::Logits, logits),
            scratch: pass.view(Buf::Scratch, scratch),
            not_finite: &not_finite,
            observer,
        };
        let done = pass.run(team, |turn| work(&job, turn));
        done.map_err(|error| BackendError::Panicked {
            message: error.to_string(),
        })?;
        match not_finite.load(Ordering::Relaxed) {
            usize::MAX => Ok(()),
            at => Err(BackendError::NotFinite {
                row: job.index.head_rows[at / config.vocab_size],
                token: ((at % config.vocab_size) as u32).into(),
            }),
        }
    }
}

impl Backend for CpuBackend {
    fn forward(&mut self, rows: &[Row], logits: &mut [f32]) -> Result<(), BackendError> {
        self.forward_by(rows, logits, None)
    }
}

/// Shape of the pages of the first `n_layers` layers.
const fn geometry(config: &Config, kv_type: KvType, n_layers: usize) -> KvGeometry {
    KvGeometry {
        n_layers,
        ..KvGeometry::new(config, kv_type)
    }
}

/// How attention is cut into units, by the sizes of the pass alone.
fn attend_by(config: &Config, n_rows: usize, n_slots: usize) -> AttendBy {
    if n_slots > 0 {
        return AttendBy::Spans { n_slots };
    }
    let block_rows = n_rows * config.n_kv_heads / ATTEND_UNITS;
    AttendBy::Rows {
        block_rows: block_rows.clamp(1, ROW_BLOCK),
    }
}

impl RowIndex {
    /// Describes `rows`. Slots are only listed where attention is to be shared out by spans: in a
    /// pass of few rows, one of which has several spans.
    fn set(&mut self, config: &Config, rows: &[Row], max_slots: usize) {
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        self.head_rows.clear();
        self.head_rows
            .extend((0..rows.len()).filter(|&i| rows[i].logits));
        self.slots.clear();
        self.first_slots.clear();
        // Layers without a window attend to the most.
        let widest = (0..config.n_layers)
            .find(|&l| config.window(l).is_none())
            .unwrap_or(0);
        let spans_of = |row: &Row| spans(&config.attended(widest, row.pos));
        let n_slots: usize = rows.iter().map(|row| spans_of(row).len()).sum();
        if rows.len() >= ROW_BLOCK || n_slots == rows.len() || n_slots > max_slots {
            return;
        }
        for (i, row) in rows.iter().enumerate() {
            self.first_slots.push(self.slots.len());
            self.slots
                .extend(spans_of(row).map(|span| Slot { row: i, span }));
        }
    }

    /// The slots of row `row`.
    pub(super) fn slots_of(&self, row: usize) -> std::ops::Range<usize> {
        let end = self
            .first_slots
            .get(row + 1)
            .copied()
            .unwrap_or(self.slots.len());
        self.first_slots[row]..end
    }
}
