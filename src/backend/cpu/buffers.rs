//! Everything that a pass writes, allocated once for a session.

use std::sync::Mutex;

use chaski_models::Config;
use chaski_quant::{
    ActRows, Acts, BLOCK, TILE_ROWS,
    acts::ActRowMut,
    scalar::attention::{KV_SPAN, KvType},
};

use super::shared::Shared;

/// Passes of at most this many rows share the spans of attention between threads; larger ones have
/// rows enough to share.
pub(super) const SPLIT_ROWS: usize = 8;
/// Query rows that one unit of attention takes in larger passes.
pub(super) const ROW_BLOCK: usize = 16;
/// Tiles times rows of one call of the matrix kernel, where a unit does not need more.
pub(super) const CALL_ROWS: usize = 1024;

/// How large the passes of a session may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassLimits {
    /// Rows of a pass.
    pub rows: usize,
    /// Rows of a pass whose logits are wanted.
    pub logit_rows: usize,
    /// Positions of the KV cache.
    pub context_len: usize,
    /// Threads.
    pub threads: usize,
    /// Type of the KV cache.
    pub kv_type: KvType,
}

/// The sizes that follow from a model and its limits, in elements.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    blocks: [usize; 3],
    x: usize,
    q: usize,
    partials: usize,
    rope: usize,
    logits: usize,
    out: usize,
    states: usize,
}

impl Sizes {
    fn new(c: &Config, limits: &PassLimits) -> Self {
        let state = c.head_dim + 2;
        let spans = limits.context_len.div_ceil(KV_SPAN);
        let head_tiles = c.head_dim.div_ceil(TILE_ROWS);
        Self {
            blocks: [c.dim, c.q_dim(), c.ffn_dim].map(|n| n.div_ceil(BLOCK)),
            x: limits.rows * c.dim,
            q: limits.rows * c.q_dim(),
            partials: spans * limits.rows.min(SPLIT_ROWS) * c.n_heads * state,
            rope: limits.rows * (c.head_dim / 2),
            logits: limits.logit_rows * c.vocab_size,
            // The largest unit: a head, or two tiles of gate and two of up.
            out: CALL_ROWS.max(head_tiles.max(4) * limits.rows) * TILE_ROWS,
            states: 2 * ROW_BLOCK.max(SPLIT_ROWS) * c.gqa_group() * state,
        }
    }
}

/// The buffers of a pass.
#[derive(Debug)]
pub struct Buffers {
    /// Hidden state, `[rows, dim]`.
    pub(super) x: Shared<f32>,
    /// What goes into QKV, gate/up and the head.
    pub(super) acts_dim: SharedActs,
    /// What goes into the attention output matrix.
    pub(super) acts_q: SharedActs,
    /// What goes into the down matrix.
    pub(super) acts_ffn: SharedActs,
    /// Queries, `[kv head, row, query of the group, head_dim]`.
    pub(super) q: Shared<f32>,
    /// Attention states of spans, `[span, kv head, row, query of the group, head_dim + 2]`.
    pub(super) partials: Shared<f32>,
    /// RoPE factors of each row, `[rows, head_dim / 2]`.
    pub(super) cos: Shared<f32>,
    pub(super) sin: Shared<f32>,
    /// `[logit rows, vocab_size]`.
    pub(super) logits: Shared<f32>,
    /// One for each thread, which locks its own once a pass.
    pub(super) scratch: Vec<Mutex<Scratch>>,
}

/// What one thread writes for itself.
#[derive(Debug)]
pub(super) struct Scratch {
    /// One row of activations: in a pass of one row every thread prepares its own.
    pub(super) acts: Acts,
    /// Results of a matrix kernel, `[tile, row, 16]`.
    pub(super) out: Vec<f32>,
    /// Attention states: of a span, then merged ones; `[2, query, head_dim + 2]`.
    pub(super) states: Vec<f32>,
    /// Positions of the tile that each query attends to.
    pub(super) ranges: Vec<[u8; 2]>,
    /// One head.
    pub(super) head: Vec<f32>,
}

impl Buffers {
    /// Allocates all of them.
    pub fn new(config: &Config, limits: &PassLimits) -> Self {
        let s = Sizes::new(config, limits);
        let scratch = || {
            Mutex::new(Scratch {
                acts: Acts::new(1, s.blocks.into_iter().fold(0, usize::max)),
                out: vec![0.0; s.out],
                states: vec![0.0; s.states],
                ranges: vec![[0; 2]; ROW_BLOCK.max(SPLIT_ROWS) * config.gqa_group()],
                head: vec![0.0; 2 * config.head_dim],
            })
        };
        let acts = |i: usize| SharedActs::new(limits.rows, s.blocks[i]);
        Self {
            x: Shared::new(s.x),
            acts_dim: acts(0),
            acts_q: acts(1),
            acts_ffn: acts(2),
            q: Shared::new(s.q),
            partials: Shared::new(s.partials),
            cos: Shared::new(s.rope),
            sin: Shared::new(s.rope),
            logits: Shared::new(s.logits),
            scratch: (0..limits.threads.max(1)).map(|_| scratch()).collect(),
        }
    }

    /// Bytes that [`new`](Self::new) allocates: shared by all threads, and of each thread.
    pub fn bytes(config: &Config, limits: &PassLimits) -> (u64, u64) {
        let s = Sizes::new(config, limits);
        let floats = s.x + s.q + s.partials + 2 * s.rope + s.logits;
        let acts: usize = s
            .blocks
            .into_iter()
            .map(|b| Acts::bytes(limits.rows, b))
            .sum();
        let own_acts = Acts::bytes(1, s.blocks.into_iter().fold(0, usize::max));
        let ranges = 2 * ROW_BLOCK.max(SPLIT_ROWS) * config.gqa_group();
        let own = own_acts + 4 * (s.out + s.states + 2 * config.head_dim) + ranges;
        ((4 * floats + acts) as u64, own as u64)
    }

    /// Copies the logits of the `i`th row that wanted them over those of the first.
    pub fn move_logits_to_front(&mut self, i: usize, vocab_size: usize) {
        let logits = self.logits.as_mut_slice();
        logits.copy_within(i * vocab_size..(i + 1) * vocab_size, 0);
    }

    /// The logits of the last pass, `[vocab_size]` for the `i`th row that wanted them.
    pub fn logits(&mut self, i: usize, vocab_size: usize) -> &[f32] {
        &self.logits.as_slice()[i * vocab_size..(i + 1) * vocab_size]
    }
}

/// Activations that all workers see; the parts are those of [`Acts`].
#[derive(Debug)]
pub(super) struct SharedActs {
    pub(super) n_blocks: usize,
    pub(super) floats: Shared<f32>,
    codes: Shared<i8>,
    scales: Shared<f32>,
    sums: Shared<[i16; 2]>,
}

#[allow(unsafe_code)]
impl SharedActs {
    fn new(rows: usize, n_blocks: usize) -> Self {
        let n = rows * n_blocks;
        Self {
            n_blocks,
            floats: Shared::new(n * BLOCK),
            codes: Shared::new(n * BLOCK),
            scales: Shared::new(n),
            sums: Shared::new(n),
        }
    }

    /// The floats `[n_blocks * 32]` of a row, to be written.
    ///
    /// # Safety
    ///
    /// * As [`Shared::write`] for the row's floats.
    #[expect(clippy::mut_from_ref, reason = "as Shared::write")]
    pub(super) unsafe fn floats_mut(&self, row: usize) -> &mut [f32] {
        let k = self.n_blocks * BLOCK;
        // SAFETY: the caller's promise is the same.
        unsafe { self.floats.write(row * k..(row + 1) * k) }
    }

    /// The 32 floats of a block of a row, to be written.
    ///
    /// # Safety
    ///
    /// * As [`Shared::write`] for these floats.
    #[expect(clippy::mut_from_ref, reason = "as Shared::write")]
    pub(super) unsafe fn floats_block_mut(&self, row: usize, block: usize) -> &mut [f32] {
        assert!(block < self.n_blocks, "block {block} of a row");
        let start = (row * self.n_blocks + block) * BLOCK;
        // SAFETY: the caller's promise is the same.
        unsafe { self.floats.write(start..start + BLOCK) }
    }

    /// Blocks `first..first + n` of a row, to be quantised.
    ///
    /// # Safety
    ///
    /// * As [`Shared::write`] for the blocks' codes, scales and sums; as [`Shared::read`] for their
    ///   floats.
    pub(super) unsafe fn row_mut(&self, row: usize, first: usize, n: usize) -> ActRowMut<'_> {
        assert!(
            first + n <= self.n_blocks,
            "blocks {first}..{} of a row",
            first + n
        );
        let start = row * self.n_blocks + first;
        // SAFETY: the caller's promises are the same, part by part.
        unsafe {
            ActRowMut {
                floats: self.floats.read(start * BLOCK..(start + n) * BLOCK),
                codes: self.codes.write(start * BLOCK..(start + n) * BLOCK),
                scales: self.scales.write(start..start + n),
                sums: self.sums.write(start..start + n),
            }
        }
    }

    /// The first `n_rows` rows, to be read.
    ///
    /// # Safety
    ///
    /// * As [`Shared::read`] for all parts of these rows.
    pub(super) unsafe fn rows(&self, n_rows: usize) -> ActRows<'_> {
        let n = n_rows * self.n_blocks;
        // SAFETY: the caller's promise is the same.
        unsafe {
            ActRows::new(
                n_rows,
                self.n_blocks,
                self.floats.read(0..n * BLOCK),
                self.codes.read(0..n * BLOCK),
                self.scales.read(0..n),
                self.sums.read(0..n),
            )
        }
    }
}
