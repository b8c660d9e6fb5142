//! Everything that a pass writes but the KV cache, allocated once.

use chaski_models::{Config, Row};
use chaski_quant::{
    Acts, BLOCK, TILE_ROWS,
    scalar::attention::{KV_SPAN, KvType},
};

/// Most query rows of a unit of attention.
pub(super) const ROW_BLOCK: usize = 16;
/// Tiles times rows of one call of the matrix kernel, where a unit does not need more: 8 tiles of a
/// pass of 512 rows, so that activations which do not fit the caches are read once for 8 tiles.
pub(super) const CALL_ROWS: usize = 4096;
/// Slots (row, span of positions) whose attention states can be kept at once, if one row at the end
/// of the context does not need more.
const MIN_SLOTS: usize = 16;

/// How large the passes of a backend may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassLimits {
    /// Rows of a pass.
    pub rows: usize,
    /// Sequences.
    pub n_seqs: usize,
    /// Positions of each sequence.
    pub context_len: usize,
    /// Threads.
    pub threads: usize,
    /// Type of the KV cache.
    pub kv_type: KvType,
}

/// A (row, span of 512 positions) whose attention state is kept until the spans are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) row: usize,
    pub(super) span: usize,
}

/// The sizes that follow from a model and its limits, in elements.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    rows: usize,
    /// Blocks of 32 of `dim`, `q_dim` and `ffn_dim`.
    blocks: [usize; 3],
    x: usize,
    q: usize,
    rope: usize,
    slots: usize,
    states: usize,
    own: ScratchSizes,
    threads: usize,
}

#[derive(Clone, Copy, Debug)]
struct ScratchSizes {
    blocks: usize,
    out: usize,
    queries: usize,
    states: usize,
    ranges: usize,
    head: usize,
}

impl Sizes {
    fn new(c: &Config, limits: &PassLimits) -> Self {
        let state = c.head_dim + 2;
        let rows = limits.rows;
        let slots = match limits.context_len.div_ceil(KV_SPAN) {
            0 | 1 => 0,
            spans => spans.max(MIN_SLOTS),
        };
        let head_tiles = c.head_dim.div_ceil(TILE_ROWS);
        let queries = ROW_BLOCK.min(rows) * c.gqa_group();
        let blocks = [c.dim, c.q_dim(), c.ffn_dim].map(|n| n.div_ceil(BLOCK));
        Self {
            rows,
            blocks,
            x: rows * c.dim,
            q: rows * c.q_dim(),
            rope: rows * c.head_dim,
            slots,
            states: slots * c.n_heads * state,
            own: ScratchSizes {
                blocks: blocks.into_iter().fold(0, usize::max),
                // The largest unit: a head, or two tiles of gate and two of up.
                out: CALL_ROWS.max(head_tiles.max(4) * rows) * TILE_ROWS,
                queries: queries * c.head_dim,
                states: 2 * queries.max(1) * state,
                ranges: queries,
                head: 2 * c.head_dim,
            },
            threads: limits.threads.max(1),
        }
    }
}

/// The buffers of a backend's passes; [`Buf`](super::schedule::Buf) has their shapes.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) x: Vec<f32>,
    pub(super) rope: Vec<f32>,
    pub(super) norm: ActBuffers,
    pub(super) q: Vec<f32>,
    pub(super) states: Vec<f32>,
    pub(super) attn: ActBuffers,
    pub(super) ffn: ActBuffers,
    pub(super) scratch: Vec<Scratch>,
    pub(super) index: RowIndex,
    /// Slots whose states there is room for.
    pub(super) max_slots: usize,
}

/// The parts of [`chaski_quant::ActRows`], `[rows, n_blocks]` blocks.
#[derive(Debug)]
pub(super) struct ActBuffers {
    pub(super) n_blocks: usize,
    pub(super) floats: Vec<f32>,
    pub(super) codes: Vec<i8>,
    pub(super) scales: Vec<f32>,
    pub(super) sums: Vec<[i16; 2]>,
}

/// What one thread writes for itself.
#[derive(Debug)]
pub(super) struct Scratch {
    /// One row of activations: in a pass of one row every thread prepares its own.
    pub(super) acts: Acts,
    /// Results of a matrix kernel, `[tile, row, 16]`.
    pub(super) out: Vec<f32>,
    /// Queries of a unit of attention, `[row, query of the group, head_dim]`.
    pub(super) queries: Vec<f32>,
    /// Their states: over all spans, then of one; `[2, row, query of the group, head_dim + 2]`.
    pub(super) states: Vec<f32>,
    /// Positions of the tile that each query attends to.
    pub(super) ranges: Vec<[u8; 2]>,
    /// One head, before and after its norm.
    pub(super) head: Vec<f32>,
}

/// What a pass needs to know of its rows.
#[derive(Debug)]
pub(super) struct RowIndex {
    pub(super) rows: Vec<Row>,
    /// The rows that want logits.
    pub(super) head_rows: Vec<usize>,
    /// Where attention is shared out by spans: the slots of row 0, of row 1, ...
    pub(super) slots: Vec<Slot>,
    /// The first slot of each row.
    pub(super) first_slots: Vec<usize>,
}

impl Buffers {
    /// Allocates all of them.
    pub(super) fn new(config: &Config, limits: &PassLimits) -> Self {
        let s = Sizes::new(config, limits);
        let acts = |i: usize| ActBuffers::new(s.rows, s.blocks[i]);
        Self {
            x: vec![0.0; s.x],
            rope: vec![0.0; s.rope],
            norm: acts(0),
            q: vec![0.0; s.q],
            states: vec![0.0; s.states],
            attn: acts(1),
            ffn: acts(2),
            scratch: (0..s.threads).map(|_| Scratch::new(&s.own)).collect(),
            index: RowIndex {
                rows: Vec::with_capacity(s.rows),
                head_rows: Vec::with_capacity(s.rows),
                slots: Vec::with_capacity(s.slots),
                first_slots: Vec::with_capacity(s.rows),
            },
            max_slots: s.slots,
        }
    }

    /// Bytes that [`new`](Self::new) allocates: shared by all threads, and of each thread.
    pub(super) fn bytes(config: &Config, limits: &PassLimits) -> (u64, u64) {
        let s = Sizes::new(config, limits);
        let floats = s.x + s.rope + s.q + s.states;
        let acts: usize = s.blocks.into_iter().map(|b| Acts::bytes(s.rows, b)).sum();
        let index = s.rows * (size_of::<Row>() + 2 * size_of::<usize>());
        let slots = s.slots * size_of::<Slot>();
        let shared = size_of::<f32>() * floats + acts + index + slots;
        (
            shared as u64,
            (Scratch::bytes(&s.own) + size_of::<Scratch>()) as u64,
        )
    }
}

impl ActBuffers {
    fn new(rows: usize, n_blocks: usize) -> Self {
        let n = rows * n_blocks;
        Self {
            n_blocks,
            floats: vec![0.0; n * BLOCK],
            codes: vec![0; n * BLOCK],
            scales: vec![0.0; n],
            sums: vec![[0; 2]; n],
        }
    }
}

impl Scratch {
    fn new(s: &ScratchSizes) -> Self {
        Self {
            acts: Acts::new(1, s.blocks),
            out: vec![0.0; s.out],
            queries: vec![0.0; s.queries],
            states: vec![0.0; s.states],
            ranges: vec![[0; 2]; s.ranges],
            head: vec![0.0; s.head],
        }
    }

    fn bytes(s: &ScratchSizes) -> usize {
        let floats = s.out + s.queries + s.states + s.head;
        Acts::bytes(1, s.blocks) + size_of::<f32>() * floats + 2 * s.ranges
    }
}

#[cfg(test)]
mod tests {
    use chaski_models::testing::Variant;

    use super::*;

    #[test]
    fn bytes_are_those_of_all_vectors() {
        for (variant, context_len, rows) in [
            (Variant::Llama, 100, 5),
            (Variant::Qwen3, 5000, 40),
            (Variant::LlamaUntied, 513, 1),
        ] {
            let limits = PassLimits {
                rows,
                n_seqs: 1,
                context_len,
                threads: 3,
                kv_type: KvType::F16,
            };
            let b = Buffers::new(&variant.config(), &limits);
            let f32s = |vecs: &[&Vec<f32>]| vecs.iter().map(|v| 4 * v.capacity()).sum::<usize>();
            let acts = |a: &ActBuffers| {
                f32s(&[&a.floats, &a.scales]) + a.codes.capacity() + 4 * a.sums.capacity()
            };
            let shared = f32s(&[&b.x, &b.rope, &b.q, &b.states])
                + acts(&b.norm)
                + acts(&b.attn)
                + acts(&b.ffn)
                + size_of::<Row>() * b.index.rows.capacity()
                + 8 * (b.index.head_rows.capacity() + b.index.first_slots.capacity())
                + size_of::<Slot>() * b.index.slots.capacity();
            let s = &b.scratch[0];
            let own = f32s(&[&s.out, &s.queries, &s.states, &s.head])
                + 2 * s.ranges.capacity()
                + size_of::<Scratch>();
            let blocks = b.norm.n_blocks.max(b.attn.n_blocks).max(b.ffn.n_blocks);
            let own = own + Acts::bytes(1, blocks);
            let want = (shared as u64, own as u64);
            assert_eq!(
                Buffers::bytes(&variant.config(), &limits),
                want,
                "{}",
                variant.name()
            );
            assert_eq!(b.scratch.capacity(), 3);
        }
    }
}
