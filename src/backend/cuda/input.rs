//! What a pass sends to the device, as one copy.
//!
//! ```text
//! n_slots      u32
//! query_rows   [rows] of 8 bytes       position, page table
//! head_rows    u32 [head]              rows that want logits
//! row_slots    u32 [rows + 1]
//! slots        [slots] of 8 bytes      row, span
//! row_blocks   [blocks] of 8 bytes     first row, rows
//! page_table   u32 [tables, table_len]
//! rope         f32 [rows, head_dim]
//! x            f32 [rows, dim]         the hidden states; the device goes on with them in place
//! ```
//!
//! Each part starts at a multiple of 256 bytes. Where they start follows from their lengths alone, so two
//! passes of equal [`Counts`] find theirs at the same addresses: recorded launches can be repeated.

use chaski_models::{Config, Row, forward::kv::spans};

use super::buffers::Sizes;
use crate::backend::cpu::kv::PageTable;

/// Where parts start.
const ALIGN: usize = 256;

/// Lengths of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Counts {
    pub(super) rows: usize,
    /// Sequences that have rows.
    pub(super) tables: usize,
    /// Room for slots, of which the device learns how many there are.
    pub(super) slots: usize,
    pub(super) blocks: usize,
    /// Rows that want logits.
    pub(super) head: usize,
}

/// Where the parts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub(super) n_slots: usize,
    pub(super) query_rows: usize,
    pub(super) head_rows: usize,
    pub(super) row_slots: usize,
    pub(super) slots: usize,
    pub(super) row_blocks: usize,
    pub(super) page_table: usize,
    pub(super) rope: usize,
    pub(super) x: usize,
    pub(super) end: usize,
}

impl Offsets {
    pub(super) fn new(counts: &Counts, table_len: usize, config: &Config) -> Self {
        let mut end = 0_usize;
        let mut part = |bytes: usize| {
            let start = end.next_multiple_of(ALIGN);
            end = start + bytes;
            start
        };
        Self {
            n_slots: part(4),
            query_rows: part(8 * counts.rows),
            head_rows: part(4 * counts.head),
            row_slots: part(4 * (counts.rows + 1)),
            slots: part(8 * counts.slots),
            row_blocks: part(8 * counts.blocks),
            page_table: part(4 * counts.tables * table_len),
            rope: part(4 * counts.rows * config.head_dim),
            x: part(4 * counts.rows * config.dim),
            end,
        }
    }
}

/// The bytes of a pass, and what they say. Made once, written anew for each pass.
#[derive(Debug)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// The sequences that have rows.
    seqs: Vec<usize>,
    /// `(row, span)`.
    slots: Vec<[u32; 2]>,
    row_slots: Vec<u32>,
    /// `(first row, rows)`.
    blocks: Vec<[u32; 2]>,
    head_rows: Vec<u32>,
    counts: Counts,
    offsets: Offsets,
}

impl Input {
    pub(super) fn new(sizes: &Sizes, config: &Config, n_seqs: usize) -> Self {
        let counts = Counts {
            rows: 0,
            tables: 0,
            slots: 0,
            blocks: 0,
            head: 0,
        };
        Self {
            bytes: Vec::new(),
            seqs: Vec::with_capacity(sizes.rows.min(n_seqs)),
            slots: Vec::with_capacity(sizes.max_slots),
            row_slots: Vec::with_capacity(sizes.rows + 1),
            blocks: Vec::with_capacity(sizes.rows),
            head_rows: Vec::with_capacity(sizes.rows),
            counts,
            offsets: Offsets::new(&counts, sizes.table_len, config),
        }
    }

    /// Describes a pass. `x`: `[rows, dim]`; `rope`: `[rows, head_dim]`.
    pub(super) fn set(
        &mut self,
        sizes: &Sizes,
        config: &Config,
        rows: &[Row],
        pages: &PageTable,
        x: &[f32],
        rope: &[f32],
    ) {
        self.index(sizes, config, rows);
        let Self {
            bytes,
            offsets: at,
            seqs,
            ..
        } = self;
        bytes.clear();
        bytes.resize(at.end, 0);
        let table_of = |seq: usize| seqs.iter().position(|&s| s == seq).unwrap_or(0);
        write(bytes, at.n_slots, [self.slots.len() as u32]);
        let query_rows = rows
            .iter()
            .flat_map(|row| [row.pos, table_of(row.seq) * sizes.table_len])
            .map(|n| n as u32);
        write(bytes, at.query_rows, query_rows);
        write(bytes, at.head_rows, self.head_rows.iter().copied());
        write(bytes, at.row_slots, self.row_slots.iter().copied());
        write(bytes, at.slots, self.slots.iter().flatten().copied());
        write(bytes, at.row_blocks, self.blocks.iter().flatten().copied());
        for (i, &seq) in seqs.iter().enumerate() {
            let at = at.page_table + 4 * i * sizes.table_len;
            write(bytes, at, pages.of(seq).iter().copied());
        }
        write(bytes, at.rope, rope.iter().map(|x| x.to_bits()));
        write(bytes, at.x, x.iter().map(|x| x.to_bits()));
    }

    /// How attention is shared out, and whose logits are wanted.
    fn index(&mut self, sizes: &Sizes, config: &Config, rows: &[Row]) {
        self.head_rows.clear();
        let wanted = (0..rows.len()).filter(|&i| rows[i].logits);
        self.head_rows.extend(wanted.map(|i| i as u32));
        self.seqs.clear();
        for row in rows {
            if !self.seqs.contains(&row.seq) {
                self.seqs.push(row.seq);
            }
        }
        // Layers without a window attend to the most; in one with a window some slots are empty.
        let widest = (0..config.n_layers)
            .find(|&l| config.window(l).is_none())
            .unwrap_or(0);
        let spans_of = |row: &Row| spans(&config.attended(widest, row.pos));
        let n_slots = rows.iter().map(|row| spans_of(row).len()).sum();
        self.slots.clear();
        self.row_slots.clear();
        self.blocks.clear();
        if sizes.by_slots(rows, n_slots) {
            for (i, row) in rows.iter().enumerate() {
                self.row_slots.push(self.slots.len() as u32);
                self.slots
                    .extend(spans_of(row).map(|span| [i as u32, span as u32]));
            }
            self.row_slots.push(self.slots.len() as u32);
        } else {
            self.blocks.extend(row_blocks(rows, sizes.block_rows));
        }
        self.counts = Counts {
            rows: rows.len(),
            tables: self.seqs.len(),
            slots: match self.slots.len() {
                0 => 0,
                n => n.next_power_of_two(),
            },
            blocks: self.blocks.len(),
            head: self.head_rows.len(),
        };
        self.offsets = Offsets::new(&self.counts, sizes.table_len, config);
    }

    /// Lengths of the parts.
    pub(super) const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Where the parts are.
    pub(super) const fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The rows that want logits.
    pub(super) fn head_rows(&self) -> &[u32] {
        &self.head_rows
    }
}

/// Runs of rows of one sequence, of at most `most` rows: `(first row, rows)`.
fn row_blocks(rows: &[Row], most: usize) -> impl Iterator<Item = [u32; 2]> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let seq = rows.get(start)?.seq;
        let of_seq = rows[start..].iter().take_while(|row| row.seq == seq);
        let block = [start as u32, of_seq.count().min(most) as u32];
        start += block[1] as usize;
        Some(block)
    })
}

/// Writes words from byte `at` on.
fn write(bytes: &mut [u8], at: usize, words: impl IntoIterator<Item = u32>) {
    let (to, _) = bytes[at..].as_chunks_mut::<4>();
    for (to, word) in to.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_runs_of_a_sequence() {
        let row = |seq, pos| Row {
            seq,
            pos,
            token: 0.into(),
            logits: false,
        };
        let rows = [
            row(0, 5),
            row(0, 6),
            row(0, 7),
            row(1, 0),
            row(0, 8),
            row(0, 9),
        ];
        let blocks: Vec<_> = row_blocks(&rows, 2).collect();
        assert_eq!(blocks, [[0, 2], [2, 1], [3, 1], [4, 2]]);
        assert_eq!(row_blocks(&[], 2).count(), 0);
    }
}
