//! Attention over the KV cache.
//!
//! The contract: tiles of 64 positions, merged left to right within spans of 512, spans merged left
//! to right. A pass of few rows shares out spans, whose states are merged in the next phase; a
//! larger one shares out rows, and a thread goes through their spans in order. Both are the same
//! operations in the same order for each query.

use std::ops::Range;

use chaski_quant::scalar::attention::{KV_SPAN, KV_TILE, KvTile, clear};

use super::{Pass, Scratch, Worker};
use crate::backend::cpu::buffers::{ROW_BLOCK, SPLIT_ROWS};

impl Pass<'_> {
    /// The page of a position, and the position in it.
    pub(super) fn page(&self, seq: usize, pos: usize) -> (u32, usize) {
        (self.pages[seq][pos / KV_TILE], pos % KV_TILE)
    }

    /// Spans that the last position of this pass reaches.
    pub(super) fn n_spans(&self) -> usize {
        self.rows
            .iter()
            .map(|r| r.pos / KV_SPAN + 1)
            .max()
            .unwrap_or(0)
    }

    fn state_len(&self) -> usize {
        self.weights.config().head_dim + 2
    }

    /// Where the states of a span and KV head lie: `[row, query of the group, head_dim + 2]`.
    fn partials(&self, span: usize, kv_head: usize) -> Range<usize> {
        let config = self.weights.config();
        let n = self.rows.len() * config.gqa_group() * self.state_len();
        let start = (span * config.n_kv_heads + kv_head) * n;
        start..start + n
    }

    /// Merges the states that the spans left for `row`, and writes the attention output, `[q_dim]`.
    pub(super) fn merge_spans(
        &self,
        scratch: &mut Scratch,
        n_spans: usize,
        row: usize,
        out: &mut [f32],
    ) {
        let config = self.weights.config();
        let (hd, group, len) = (config.head_dim, config.gqa_group(), self.state_len());
        let state = &mut scratch.states[..len];
        for head in 0..config.n_heads {
            clear(state);
            for span in 0..n_spans {
                let start = self.partials(span, head / group).start;
                let at = start + (row * group + head % group) * len;
                // SAFETY: written in the attention phase, only read since.
                let from = unsafe { self.buffers.partials.read(at..at + len) };
                self.kernels.merge(state, from);
            }
            self.kernels
                .finish(state, &mut out[head * hd..(head + 1) * hd]);
        }
    }

    /// Attends the queries of rows `rows` (of one sequence) of a KV head to the positions of one
    /// span; `states` are theirs, `[row, query of the group, head_dim + 2]`.
    fn attend_span(
        &self,
        layer: usize,
        kv_head: usize,
        rows: Range<usize>,
        span: usize,
        ranges: &mut [[u8; 2]],
        states: &mut [f32],
    ) {
        let config = self.weights.config();
        let (hd, group) = (config.head_dim, config.gqa_group());
        let attended = |row: usize| {
            let all = config.attended(layer, self.rows[row].pos);
            all.start.max(span * KV_SPAN)..all.end.min((span + 1) * KV_SPAN)
        };
        // Rows are in the order of their positions, and so are both ends of what they attend to.
        let (start, end) = (attended(rows.start).start, attended(rows.end - 1).end);
        if start >= end {
            return;
        }
        let q_at = (kv_head * self.rows.len() + rows.start) * group * hd;
        // SAFETY: written in the QKV phase, only read in this one.
        let q = unsafe { self.buffers.q.read(q_at..q_at + rows.len() * group * hd) };
        let ranges = &mut ranges[..rows.len() * group];
        let seq = self.rows[rows.start].seq;
        for tile in start / KV_TILE..end.div_ceil(KV_TILE) {
            let first = tile * KV_TILE;
            for (i, row) in rows.clone().enumerate() {
                let all = attended(row);
                let lo = all.start.max(first) - first;
                let hi = all.end.min(first + KV_TILE).saturating_sub(first);
                let range = if lo < hi {
                    [lo as u8, hi as u8]
                } else {
                    [0, 0]
                };
                ranges[i * group..(i + 1) * group].fill(range);
            }
            let (page, _) = self.page(seq, first);
            let part = |value| {
                let at = self.kv.part(page, layer, kv_head, value);
                // SAFETY: written in the QKV phase or in an earlier pass, only read in this one.
                unsafe { self.kv.bytes().read(at) }
            };
            let (keys, values) = (part(false), part(true));
            let kv = KvTile {
                kv_type: self.kv.shape().kv_type,
                head_dim: hd,
                keys,
                values,
            };
            self.kernels
                .attend_tile(&kv, q, ranges, config.attn_scale(), states);
        }
    }

    /// Splits rows into runs of one sequence.
    fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut next = rows.start;
        std::iter::from_fn(move || {
            let start = next;
            let seq = self.rows[..rows.end].get(start)?.seq;
            while next < rows.end && self.rows[next].seq == seq {
                next += 1;
            }
            Some(start..next)
        })
    }
}

impl Worker<'_> {
    pub(super) fn attend(&mut self, layer: usize) {
        let pass = self.pass;
        let config = pass.weights.config();
        let (n_rows, n_kv) = (pass.rows.len(), config.n_kv_heads);
        let per_row = config.gqa_group() * pass.state_len();
        let scratch = &mut *self.scratch;
        if n_rows <= SPLIT_ROWS {
            for unit in self.member.share(pass.n_spans() * n_kv) {
                let (span, kv_head) = (unit / n_kv, unit % n_kv);
                // SAFETY: this thread owns the span of the KV head in this phase.
                let states = unsafe { pass.buffers.partials.write(pass.partials(span, kv_head)) };
                states.chunks_exact_mut(pass.state_len()).for_each(clear);
                for run in pass.runs(0..n_rows) {
                    let states = &mut states[run.start * per_row..run.end * per_row];
                    pass.attend_span(layer, kv_head, run, span, &mut scratch.ranges, states);
                }
            }
            return;
        }
        let n_blocks = n_rows.div_ceil(ROW_BLOCK);
        for unit in self.member.share(n_blocks * n_kv) {
            let (block, kv_head) = (unit / n_kv, unit % n_kv);
            let rows = block * ROW_BLOCK..n_rows.min((block + 1) * ROW_BLOCK);
            for run in pass.runs(rows) {
                self.attend_rows(layer, kv_head, run);
            }
        }
    }

    /// All spans of some rows of one sequence, and the attention output.
    fn attend_rows(&mut self, layer: usize, kv_head: usize, rows: Range<usize>) {
        let pass = self.pass;
        let config = pass.weights.config();
        let (hd, group, len) = (config.head_dim, config.gqa_group(), pass.state_len());
        let n = rows.len() * group * len;
        let scratch = &mut *self.scratch;
        let (total, rest) = scratch.states.split_at_mut(n);
        let states = &mut rest[..n];
        total.chunks_exact_mut(len).for_each(clear);
        let first = config.attended(layer, pass.rows[rows.start].pos).start / KV_SPAN;
        for span in first..pass.rows[rows.end - 1].pos / KV_SPAN + 1 {
            states.chunks_exact_mut(len).for_each(clear);
            pass.attend_span(
                layer,
                kv_head,
                rows.clone(),
                span,
                &mut scratch.ranges,
                states,
            );
            for (into, from) in total.chunks_exact_mut(len).zip(states.chunks_exact(len)) {
                pass.kernels.merge(into, from);
            }
        }
        let k = pass.buffers.acts_q.n_blocks * chaski_quant::BLOCK;
        for (i, state) in total.chunks_exact(len).enumerate() {
            let (row, head) = (rows.start + i / group, kv_head * group + i % group);
            let at = row * k + head * hd;
            // SAFETY: this thread owns the row's heads of this KV head in this phase.
            let out = unsafe { pass.buffers.acts_q.floats.write(at..at + hd) };
            pass.kernels.finish(state, out);
        }
    }
}
