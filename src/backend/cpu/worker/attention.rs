//! Attention over the KV cache.
//!
//! The contract: tiles of 64 positions, merged left to right within spans of 512, spans merged left
//! to right. A pass of few rows shares out (row, span) slots, whose states are merged in a step of
//! its own; a larger one shares out rows, and a thread goes through their spans in order. Both are
//! the same operations in the same order for each query.

use std::ops::Range;

use chaski_models::forward::kv::{span_parts, spans};
use chaski_quant::scalar::attention::{KV_TILE, KvTile, clear};

use super::{Job, Row, Scratch, Turn, Worker};
use crate::backend::cpu::{buffers::Slot, schedule::AttendBy};

/// Queries that go through a span together: what the kernels take at once.
const QUERIES: usize = 8;

impl Job<'_> {
    fn state_len(&self) -> usize {
        self.config.head_dim + 2
    }

    /// Attends queries of a KV head to their positions within one span.
    ///
    /// * `rows`: of one sequence, in the order of their positions.
    /// * `queries`: `[row, query of the group, head_dim]`; `states`: `[.., head_dim + 2]`.
    ///
    /// A few queries go through all tiles of the span before the next few do: their vectors and states
    /// then stay in the first-level cache, and the span (128 KiB at 64 channels) comes from the second.
    #[expect(clippy::too_many_arguments, reason = "what a unit is, and its scratch")]
    fn attend_span(
        &self,
        kv: &[u8],
        layer: usize,
        kv_head: usize,
        rows: Range<usize>,
        span: usize,
        queries: &[f32],
        ranges: &mut [[u8; 2]],
        states: &mut [f32],
    ) {
        let group = self.config.gqa_group();
        let most = (QUERIES / group).max(1);
        let (q_len, state_len) = (group * self.config.head_dim, group * self.state_len());
        for (i, rows) in self.index.rows[rows].chunks(most).enumerate() {
            let these = i * most..i * most + rows.len();
            self.attend_few(
                kv,
                layer,
                kv_head,
                rows,
                span,
                &queries[these.start * q_len..these.end * q_len],
                &mut ranges[these.start * group..these.end * group],
                &mut states[these.start * state_len..these.end * state_len],
            );
        }
    }

    /// As [`attend_span`](Self::attend_span), all queries tile by tile.
    #[expect(clippy::too_many_arguments, reason = "as attend_span")]
    fn attend_few(
        &self,
        kv: &[u8],
        layer: usize,
        kv_head: usize,
        rows: &[Row],
        span: usize,
        queries: &[f32],
        ranges: &mut [[u8; 2]],
        states: &mut [f32],
    ) {
        let group = self.config.gqa_group();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return;
        };
        let attended = |pos| self.config.attended(layer, pos);
        // Positions rise from row to row, and with them both ends of what is attended to.
        let all = attended(first.pos).start..attended(last.pos).end;
        let mut parts = span_parts(all, span).peekable();
        while let Some(part) = parts.next() {
            for (row, ranges) in rows.iter().zip(ranges.chunks_exact_mut(group)) {
                ranges.fill(clip(attended(row.pos), part.tile));
            }
            let next = parts.peek().map(|next| (next.tile, kv_head));
            let tile = self.tile(kv, layer, first.seq, (part.tile, kv_head), next);
            let scale = self.config.attn_scale();
            self.kernels
                .attend_tile(&tile, queries, ranges, scale, states);
        }
    }

    /// A tile of sequence `seq`, by its number and its KV head, and what will be read `next`.
    fn tile<'k>(
        &self,
        kv: &'k [u8],
        layer: usize,
        seq: usize,
        (tile, kv_head): (usize, usize),
        next: Option<(usize, usize)>,
    ) -> KvTile<'k> {
        let (geometry, page_bytes) = (&self.shape.kv, self.shape.kv.page_bytes());
        let page_of = |tile: usize| {
            let page = self.pages.page(seq, tile);
            &kv[page * page_bytes..(page + 1) * page_bytes]
        };
        let mut at_hand = geometry.tile(page_of(tile), layer, kv_head);
        if let Some((tile, kv_head)) = next {
            let keys = geometry.key_range(layer, kv_head);
            let values = geometry.value_range(layer, kv_head);
            at_hand.ahead = &page_of(tile)[keys.start..values.end];
        }
        at_hand
    }

    /// Splits rows into runs of one sequence.
    fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut rest = rows;
        std::iter::from_fn(move || {
            let seq = self.index.rows[rest.clone()].first()?.seq;
            let n = self.index.rows[rest.clone()]
                .iter()
                .take_while(|r| r.seq == seq)
                .count();
            let run = rest.start..rest.start + n;
            rest.start = run.end;
            Some(run)
        })
    }
}

/// The positions `range` within a tile.
fn clip(range: Range<usize>, tile: usize) -> [u8; 2] {
    let within = |pos: usize| pos.saturating_sub(tile * KV_TILE).min(KV_TILE) as u8;
    [within(range.start), within(range.end)]
}

impl Worker<'_> {
    pub(super) fn attend(&self, layer: usize) {
        match self.job.shape.attend {
            AttendBy::Rows { block_rows } => self.attend_rows(layer, block_rows),
            AttendBy::Spans { .. } => self.attend_slots(layer),
        }
    }

    /// Units of a slot and a KV head. All heads of a slot that the worker has go through its tiles together: the tiles of
    /// a page's heads lie side by side, those of a head do not.
    fn attend_slots(&self, layer: usize) {
        let (job, turn, config) = (self.job, &self.turn, self.job.config);
        let (n_kv_heads, group, len) = (config.n_kv_heads, config.gqa_group(), job.state_len());
        let Scratch { ranges, .. } = turn.own(&job.scratch);
        let (q, kv) = (turn.read(&job.q), turn.read(&job.kv));
        let (ranges, scale) = (&mut ranges[..group], config.attn_scale());
        let mut states = turn.part(&job.states);
        for (slot, Slot { row, span }) in job.index.slots.iter().enumerate() {
            let units = turn
                .units()
                .within(slot * n_kv_heads..(slot + 1) * n_kv_heads);
            let heads = |unit: usize| {
                let kv_head = unit % n_kv_heads;
                kv_head * group..(kv_head + 1) * group
            };
            for unit in units {
                let Range { start, end } = heads(unit);
                let states = states.row(slot, start * len..end * len);
                states.chunks_exact_mut(len).for_each(clear);
            }
            let Row { seq, pos, .. } = job.index.rows[*row];
            let attended = config.attended(layer, pos);
            let tiles = span_parts(attended.clone(), *span);
            let mut walk = tiles.flat_map(|part| units.map(move |unit| (part.tile, unit)));
            let mut next = walk.next();
            while let Some((tile, unit)) = next {
                next = walk.next();
                ranges.fill(clip(attended.clone(), tile));
                let Range { start, end } = heads(unit);
                let head = |(tile, unit)| (tile, unit % n_kv_heads);
                let tile = job.tile(kv, layer, seq, head((tile, unit)), next.map(head));
                let at = row * config.n_heads;
                let queries = &q[(at + start) * config.head_dim..(at + end) * config.head_dim];
                let states = states.row(slot, start * len..end * len);
                job.kernels
                    .attend_tile(&tile, queries, ranges, scale, states);
            }
        }
    }

    /// The slots of each row and head, merged into the attention result.
    pub(super) fn merge_spans(&self) {
        let (job, turn) = (self.job, &self.turn);
        let (n_heads, hd, len) = (job.config.n_heads, job.config.head_dim, job.state_len());
        let Scratch { states: total, .. } = turn.own(&job.scratch);
        let total = &mut total[..len];
        let states = turn.read(&job.states);
        let mut out = turn.part(&job.attn.floats);
        for unit in turn.units() {
            let (row, head) = (unit / n_heads, unit % n_heads);
            clear(total);
            for slot in job.index.slots_of(row) {
                let at = (slot * n_heads + head) * len;
                job.kernels.merge(total, &states[at..at + len]);
            }
            job.kernels
                .finish(total, out.row(row, head * hd..(head + 1) * hd));
        }
    }

    /// Units of a block of rows and a KV head.
    fn attend_rows(&self, layer: usize, block_rows: usize) {
        let (job, turn, config) = (self.job, &self.turn, self.job.config);
        let (n_kv_heads, group, hd) = (config.n_kv_heads, config.gqa_group(), config.head_dim);
        let len = job.state_len();
        let scratch = turn.own(&job.scratch);
        let q = turn.read(&job.q);
        let mut out = turn.part(&job.attn.floats);
        for unit in turn.units() {
            let (block, kv_head) = (unit / n_kv_heads, unit % n_kv_heads);
            let rows = block * block_rows..((block + 1) * block_rows).min(job.shape.n_rows);
            for run in job.runs(rows) {
                let queries = &mut scratch.queries[..run.len() * group * hd];
                gather(
                    q,
                    config.n_heads * hd,
                    run.clone(),
                    kv_head * group * hd,
                    queries,
                );
                let total = self.attend_run(turn, layer, kv_head, run.clone(), scratch);
                for (i, state) in total.chunks_exact(len).enumerate() {
                    let (row, head) = (run.start + i / group, kv_head * group + i % group);
                    job.kernels
                        .finish(state, out.row(row, head * hd..(head + 1) * hd));
                }
            }
        }
    }

    /// All spans of the queries in `scratch`, of rows of one sequence; gives their states.
    fn attend_run<'s>(
        &self,
        turn: &Turn<'_>,
        layer: usize,
        kv_head: usize,
        rows: Range<usize>,
        scratch: &'s mut Scratch,
    ) -> &'s [f32] {
        let (job, len) = (self.job, self.job.state_len());
        let kv = turn.read(&job.kv);
        let n = rows.len() * job.config.gqa_group();
        let queries = &scratch.queries[..n * job.config.head_dim];
        let ranges = &mut scratch.ranges[..n];
        let half = scratch.states.len() / 2;
        let (total, states) = scratch.states.split_at_mut(half);
        let (total, states) = (&mut total[..n * len], &mut states[..n * len]);
        total.chunks_exact_mut(len).for_each(clear);
        let pos = |row: usize| job.index.rows[row].pos;
        let start = job.config.attended(layer, pos(rows.start)).start;
        for span in spans(&(start..pos(rows.end - 1) + 1)) {
            states.chunks_exact_mut(len).for_each(clear);
            job.attend_span(
                kv,
                layer,
                kv_head,
                rows.clone(),
                span,
                queries,
                ranges,
                states,
            );
            for (into, from) in total.chunks_exact_mut(len).zip(states.chunks_exact(len)) {
                job.kernels.merge(into, from);
            }
        }
        total
    }
}

/// Copies the queries of one KV head together: `out` is `[rows, query of the group, head_dim]`.
fn gather(q: &[f32], q_dim: usize, rows: Range<usize>, first: usize, out: &mut [f32]) {
    let n = out.len() / rows.len();
    for (row, out) in rows.zip(out.chunks_exact_mut(n)) {
        out.copy_from_slice(&q[row * q_dim + first..][..n]);
    }
}
