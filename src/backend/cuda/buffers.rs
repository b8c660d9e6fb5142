//! What passes write on a device, allocated once: all but the keys and values.

use chaski_models::{Config, Row, forward::kv::KvGeometry};
use chaski_quant::{BLOCK, scalar::attention::KV_SPAN};

use super::{
    args::{AttendRowsArgs, MATVEC_ROWS},
    device::{Buffer, Device, DeviceError},
    input::{Counts, Offsets},
};
use crate::backend::{cpu::PassLimits, placement::Placement};

/// Rows whose logits a launch of the head makes: those of more rows are made so many at a time.
const HEAD_ROWS: usize = 32;

/// The sizes that follow from a model, its limits and its placement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Rows of a pass.
    pub(super) rows: usize,
    /// Rows whose logits are made at once.
    pub(super) head_rows: usize,
    /// Slots of attention that there are states for.
    pub(super) max_slots: usize,
    /// Rows that a block of [`AttendRowsArgs`] takes; 0: slots serve any number of rows.
    pub(super) block_rows: usize,
    /// Elements of a page table.
    pub(super) table_len: usize,
    /// Blocks of 32 of the widest activations.
    blocks: usize,
    input: usize,
    q: usize,
    kv: usize,
    states: usize,
    attn: usize,
    ffn: usize,
    logits: usize,
}

impl Sizes {
    pub(super) fn new(c: &Config, limits: &PassLimits, placement: &Placement) -> Self {
        let rows = limits.rows;
        let block_rows = AttendRowsArgs::block_rows(c.gqa_group() as u32) as usize;
        let slot_rows = match block_rows {
            0 => rows,
            _ => rows.min(MATVEC_ROWS as usize),
        };
        let max_slots = slot_rows * limits.context_len.div_ceil(KV_SPAN);
        let blocks = [c.dim, c.q_dim(), c.ffn_dim].map(|n| n.div_ceil(BLOCK));
        let head_rows = match placement.gpu_head {
            true => rows.min(HEAD_ROWS),
            false => 0,
        };
        let table_len = KvGeometry::n_pages(limits.context_len);
        let most = Counts {
            rows,
            tables: rows.min(limits.n_seqs),
            // With a graph's room: the next power of two.
            slots: max_slots.next_power_of_two(),
            blocks: rows,
            head: rows,
        };
        Self {
            rows,
            head_rows,
            max_slots,
            block_rows,
            table_len,
            blocks: blocks.into_iter().fold(0, usize::max),
            input: Offsets::new(&most, table_len, c).end,
            q: rows * c.q_dim(),
            kv: rows * c.kv_dim(),
            states: max_slots * c.n_heads * (c.head_dim + 2),
            attn: rows * c.q_dim(),
            ffn: rows * c.ffn_dim,
            logits: head_rows * c.vocab_size,
        }
    }

    /// Bytes of each buffer, in the order of [`Buffers`].
    fn bytes(&self) -> [usize; 12] {
        let n_blocks = self.rows * self.blocks;
        [
            self.input,
            n_blocks * BLOCK,
            4 * n_blocks,
            4 * n_blocks,
            4 * n_blocks * BLOCK,
            4 * self.q,
            4 * self.kv,
            4 * self.kv,
            4 * self.states,
            4 * self.attn,
            2 * (4 * self.ffn).next_multiple_of(256),
            4 * self.logits,
        ]
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.bytes().into_iter().sum::<usize>() as u64
    }

    /// Whether the attention of `rows`, with so many slots, is shared out by slots.
    pub(super) fn by_slots(&self, rows: &[Row], n_slots: usize) -> bool {
        // Many rows of a block share what they read of the cache; few leave the device idle.
        self.block_rows == 0 || (rows.len() < 8 * MATVEC_ROWS as usize && n_slots <= self.max_slots)
    }
}

/// The buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    /// What a pass sends: see [`input`](super::input). The hidden states are its last part, and stay
    /// there.
    pub(super) input: Buffer,
    /// i8 `[rows, blocks, 32]`.
    pub(super) codes: Buffer,
    /// f32 `[rows, blocks]`.
    pub(super) scales: Buffer,
    /// i16 `[rows, blocks, 2]`.
    pub(super) sums: Buffer,
    /// f32 `[rows, blocks * 32]`.
    pub(super) floats: Buffer,
    /// f32 `[rows, q_dim]`.
    pub(super) q: Buffer,
    /// f32 `[rows, kv_dim]`.
    pub(super) k: Buffer,
    /// f32 `[rows, kv_dim]`.
    pub(super) v: Buffer,
    /// f32 `[slots, n_heads, head_dim + 2]`.
    pub(super) states: Buffer,
    /// f32 `[rows, q_dim]`.
    pub(super) attn: Buffer,
    /// f32 `[2, rows, ffn_dim]`: gate, up.
    pub(super) ffn: Buffer,
    /// f32 `[head_rows, vocab_size]`.
    pub(super) logits: Buffer,
}

impl Buffers {
    /// Allocates all of them.
    pub(super) fn new(device: &dyn Device, sizes: &Sizes) -> Result<Self, DeviceError> {
        let bytes = sizes.bytes();
        let mut next = bytes.iter();
        // An empty buffer has an address too.
        let mut alloc = || device.alloc(next.next().map_or(1, |&n| n.max(1)));
        Ok(Self {
            input: alloc()?,
            codes: alloc()?,
            scales: alloc()?,
            sums: alloc()?,
            floats: alloc()?,
            q: alloc()?,
            k: alloc()?,
            v: alloc()?,
            states: alloc()?,
            attn: alloc()?,
            ffn: alloc()?,
            logits: alloc()?,
        })
    }
}
