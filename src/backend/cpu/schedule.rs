//! Who may touch what in which step of a pass.
//!
//! A pass is a fixed sequence of *steps* with a barrier between two of them. The sequence, the work
//! units of each step, their owners, and the part of each buffer that a unit stands for are functions
//! of the pass's [`Shape`] alone. That is what makes [`shared::view`](super::shared::view) sound: in
//! one step a buffer is either read by everyone, or each of its elements belongs to one worker.

use std::ops::Range;

use chaski_models::forward::kv::KvGeometry;
use chaski_quant::{BLOCK, TILE_ROWS};

/// What the workers do between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tokens to hidden states, positions to rotations. Units: rows.
    Embed,
    /// Attention norm and quantisation of many rows. Units: rows.
    NormAttn,
    /// Q, K, V; biases, norms, rotation; KV store. Units: Q heads, then K and V heads in turns.
    Qkv,
    /// Attention. Units: (block of rows or slot, KV head).
    Attend,
    /// Merging the spans of each row. Units: (row, head).
    Merge,
    /// Quantisation of many rows of attention results. Units: rows.
    QuantAttn,
    /// Attention output matrix, residual. Units: tiles.
    AttnOutput,
    /// Feed-forward norm and quantisation of many rows. Units: rows.
    NormFfn,
    /// Gate, up, activation, quantisation. Units: blocks of 32 features.
    GateUp,
    /// Down matrix, residual. Units: tiles.
    Down,
    /// Last norm and quantisation of many rows. Units: rows with logits.
    NormHead,
    /// Logits. Units: tiles.
    Head,
    /// Nothing may be touched any more.
    End,
}

/// A kind of values that [`chaski_quant::ActRows`] consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    Floats,
    Codes,
    Scales,
    Sums,
}

impl Plane {
    /// Elements for each block of 32.
    const fn per_block(self) -> usize {
        match self {
            Self::Floats | Self::Codes => BLOCK,
            Self::Scales | Self::Sums => 1,
        }
    }
}

/// A shared buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buf {
    /// Hidden states, `[n_rows, dim]`.
    X,
    /// Cosines, then sines of each row's position, `[n_rows, head_dim]`.
    Rope,
    /// Normed rows, `[n_rows, dim]` in blocks.
    Norm(Plane),
    /// Queries, `[n_rows, n_heads, head_dim]`.
    Q,
    /// The KV cache: `[n_pages, n_layers, n_kv_heads, 2, part_bytes]`.
    Kv,
    /// Attention states of slots, `[n_slots, n_heads, head_dim + 2]`.
    States,
    /// Attention results, `[n_rows, n_heads * head_dim]` in blocks.
    Attn(Plane),
    /// What the down matrix takes, `[n_rows, ffn_dim]` in blocks.
    Ffn(Plane),
    /// Logits, `[n_head_rows, vocab_size]`.
    Logits,
    /// One element for each worker.
    Scratch,
}

impl Buf {
    /// A bit of its own.
    pub(super) const fn bit(self) -> u32 {
        1 << match self {
            Self::X => 0,
            Self::Rope => 1,
            Self::Q => 2,
            Self::Kv => 3,
            Self::States => 4,
            Self::Logits => 5,
            Self::Scratch => 6,
            Self::Norm(plane) => 8 + plane as u32,
            Self::Attn(plane) => 12 + plane as u32,
            Self::Ffn(plane) => 16 + plane as u32,
        }
    }
}

/// How attention is cut into units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttendBy {
    /// Units of `block_rows` rows, each over all of its rows' positions.
    Rows { block_rows: usize },
    /// Units of one slot, which is a (row, span of 512 positions).
    Spans { n_slots: usize },
}

/// Where a pass begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With tokens, and then the layers.
    Tokens,
    /// With hidden states that are there, behind the last layer: another machine had the layers.
    Hidden,
}

/// Sizes of a pass; everything about who does what follows from them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) begin: Begin,
    pub(crate) n_workers: usize,
    pub(crate) n_rows: usize,
    /// Rows that want logits.
    pub(crate) n_head_rows: usize,
    pub(crate) attend: AttendBy,
    pub(crate) dim: usize,
    pub(crate) ffn_dim: usize,
    pub(crate) n_heads: usize,
    pub(crate) vocab_size: usize,
    /// Of the layers that the CPU has, which may be none.
    pub(crate) kv: KvGeometry,
    /// Pages of the KV cache.
    pub(crate) n_pages: usize,
    /// Whether somebody looks at the rows that enter each matrix: they are then prepared once for
    /// all, however few they are.
    pub(crate) observed: bool,
    /// Whether float matrices multiply what 8-bit activations stand for; prepared as if observed.
    pub(crate) rounded: bool,
}

/// How the units of a step are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deal {
    /// Neighbours stay together: a worker reads one stretch of weights.
    Stretches,
    /// In turns, where the work grows from unit to unit.
    Turns,
}

/// The units of one worker in one step, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    start: usize,
    end: usize,
    stride: usize,
}

impl Units {
    fn new(deal: Deal, n_units: usize, worker: usize, n_workers: usize) -> Self {
        match deal {
            Deal::Stretches => Self {
                start: n_units * worker / n_workers,
                end: n_units * (worker + 1) / n_workers,
                stride: 1,
            },
            Deal::Turns => Self {
                start: worker,
                end: n_units,
                stride: n_workers,
            },
        }
    }

    /// Whether `unit` is among them.
    pub(super) const fn contains(&self, unit: usize) -> bool {
        self.start <= unit && unit < self.end && (unit - self.start).is_multiple_of(self.stride)
    }

    /// Whether neighbouring units can be used together.
    pub(super) const fn are_neighbours(&self) -> bool {
        self.stride == 1
    }

    /// Those in `range`.
    pub(super) const fn within(&self, range: Range<usize>) -> Self {
        let skipped = range.start.saturating_sub(self.start).div_ceil(self.stride);
        Self {
            start: self.start + skipped * self.stride,
            end: if range.end < self.end {
                range.end
            } else {
                self.end
            },
            stride: self.stride,
        }
    }

    /// All of them.
    ///
    /// # Panics
    ///
    /// If they are not neighbours.
    pub(super) fn stretch(&self) -> Range<usize> {
        assert!(self.are_neighbours(), "units dealt in turns");
        self.start..self.end
    }
}

impl Iterator for Units {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let unit = self.start;
        if unit >= self.end {
            return None;
        }
        self.start += self.stride;
        Some(unit)
    }
}

/// What one unit of a step is in a buffer: a block of `block_rows` by `block_cols` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// Elements of a row that units stand for.
    pub(super) cols: usize,
    pub(super) block_rows: usize,
    pub(super) block_cols: usize,
    /// The unit of the first block.
    pub(super) first_unit: usize,
}

impl Grid {
    /// The unit that element `[row, col]` belongs to; `col < cols`.
    pub(super) const fn unit(&self, row: usize, col: usize) -> usize {
        let per_row = self.cols.div_ceil(self.block_cols);
        self.first_unit + row / self.block_rows * per_row + col / self.block_cols
    }
}

/// What a step may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    None,
    /// Everyone reads all of it.
    Read,
    /// Each worker reads and writes the blocks of its own units.
    Write(Grid),
    /// Worker `i` reads and writes element `i`.
    Own,
}

impl Shape {
    /// Whether rows are normed and quantised by every worker for itself, not by one for all: that
    /// is less work than a barrier as long as it is one row.
    pub(crate) const fn each_norms(&self) -> bool {
        self.n_rows == 1 && !self.observed && !self.rounded
    }

    /// The same for the rows that want logits.
    pub(crate) const fn each_norms_head(&self) -> bool {
        self.n_head_rows == 1 && !self.observed && !self.rounded
    }

    const fn gqa_group(&self) -> usize {
        self.n_heads / self.kv.n_kv_heads
    }

    /// The first step.
    pub(super) const fn first_step(&self) -> Step {
        match self.begin {
            Begin::Tokens => Step::Embed,
            Begin::Hidden => self.after_layers(),
        }
    }

    const fn after_layers(&self) -> Step {
        if self.n_head_rows == 0 {
            Step::End
        } else if self.each_norms_head() {
            Step::Head
        } else {
            Step::NormHead
        }
    }

    /// The step and the layer after `step` of `layer`.
    pub(super) const fn next(&self, step: Step, layer: usize) -> (Step, usize) {
        let first = if self.each_norms() {
            Step::Qkv
        } else {
            Step::NormAttn
        };
        let attended = if self.each_norms() {
            Step::AttnOutput
        } else {
            Step::QuantAttn
        };
        let next = match step {
            Step::Embed if self.kv.n_layers > 0 => first,
            Step::NormAttn => Step::Qkv,
            Step::Qkv => Step::Attend,
            Step::Attend => match self.attend {
                AttendBy::Spans { .. } => Step::Merge,
                AttendBy::Rows { .. } => attended,
            },
            Step::Merge => attended,
            Step::QuantAttn => Step::AttnOutput,
            Step::AttnOutput if self.each_norms() => Step::GateUp,
            Step::AttnOutput => Step::NormFfn,
            Step::NormFfn => Step::GateUp,
            Step::GateUp => Step::Down,
            Step::Down if layer + 1 < self.kv.n_layers => return (first, layer + 1),
            Step::Embed | Step::Down => self.after_layers(),
            Step::NormHead => Step::Head,
            Step::Head | Step::End => Step::End,
        };
        (next, layer)
    }

    /// Number of work units of a step, and how they are dealt out.
    const fn n_units(&self, step: Step) -> (usize, Deal) {
        let n_kv_heads = self.kv.n_kv_heads;
        let n = match step {
            Step::Embed | Step::NormAttn | Step::QuantAttn | Step::NormFfn => self.n_rows,
            Step::NormHead => self.n_head_rows,
            Step::Qkv => self.n_heads + 2 * n_kv_heads,
            Step::Attend => {
                let blocks = match self.attend {
                    AttendBy::Rows { block_rows } => self.n_rows.div_ceil(block_rows),
                    AttendBy::Spans { n_slots } => n_slots,
                };
                return (blocks * n_kv_heads, Deal::Turns);
            }
            Step::Merge => self.n_rows * self.n_heads,
            Step::AttnOutput | Step::Down => self.dim.div_ceil(TILE_ROWS),
            Step::GateUp => self.ffn_dim.div_ceil(BLOCK),
            Step::Head => self.vocab_size.div_ceil(TILE_ROWS),
            Step::End => 0,
        };
        (n, Deal::Stretches)
    }

    /// The units of `worker` in `step`.
    pub(super) fn units(&self, step: Step, worker: usize) -> Units {
        let (n_units, deal) = self.n_units(step);
        Units::new(deal, n_units, worker, self.n_workers)
    }

    /// What `step` may do with `buf`.
    pub(super) fn access(&self, step: Step, buf: Buf) -> Access {
        let by_row = |cols| Access::Write(Grid::rows(cols));
        let (head_dim, q_dim) = (self.kv.head_dim, self.n_heads * self.kv.head_dim);
        let padded = |n: usize, plane: Plane| n.div_ceil(BLOCK) * plane.per_block();
        match (step, buf) {
            (Step::End, _) => Access::None,
            (_, Buf::Scratch) => Access::Own,
            (Step::Embed, Buf::X) => by_row(self.dim),
            (Step::Embed, Buf::Rope) => by_row(head_dim),
            (Step::NormAttn | Step::NormFfn | Step::NormHead, Buf::Norm(plane)) => {
                by_row(padded(self.dim, plane))
            }
            (Step::NormAttn | Step::NormFfn | Step::NormHead, Buf::X)
            | (Step::Qkv, Buf::X | Buf::Norm(_) | Buf::Rope)
            | (Step::Attend, Buf::Q | Buf::Kv)
            | (Step::Merge, Buf::States)
            | (Step::AttnOutput, Buf::Attn(_))
            | (Step::GateUp | Step::Head, Buf::X | Buf::Norm(_))
            | (Step::Down, Buf::Ffn(_)) => Access::Read,
            (Step::Qkv, Buf::Q) => Access::Write(Grid::cols(q_dim, head_dim, 0)),
            (Step::Qkv, Buf::Kv) => {
                let cols = self.kv.n_kv_heads * self.kv.tile_bytes();
                Access::Write(Grid::cols(cols, self.kv.part_bytes(), self.n_heads))
            }
            (Step::Attend, Buf::States) => match self.attend {
                AttendBy::Rows { .. } => Access::None,
                AttendBy::Spans { .. } => {
                    let cols = self.n_heads * (head_dim + 2);
                    let block_cols = self.gqa_group() * (head_dim + 2);
                    let grid = Grid {
                        block_rows: 1,
                        ..Grid::cols(cols, block_cols, 0)
                    };
                    Access::Write(grid)
                }
            },
            (Step::Attend, Buf::Attn(Plane::Floats)) => match self.attend {
                AttendBy::Spans { .. } => Access::None,
                AttendBy::Rows { block_rows } => Access::Write(Grid {
                    stride: padded(q_dim, Plane::Floats),
                    block_rows,
                    ..Grid::cols(q_dim, self.gqa_group() * head_dim, 0)
                }),
            },
            (Step::Merge, Buf::Attn(Plane::Floats)) => Access::Write(Grid {
                stride: padded(q_dim, Plane::Floats),
                block_rows: 1,
                ..Grid::cols(q_dim, head_dim, 0)
            }),
            (Step::QuantAttn, Buf::Attn(Plane::Floats)) if !self.rounded => Access::Read,
            (Step::QuantAttn, Buf::Attn(plane)) => by_row(padded(q_dim, plane)),
            (Step::AttnOutput | Step::Down, Buf::X) => {
                Access::Write(Grid::cols(self.dim, TILE_ROWS, 0))
            }
            (Step::GateUp, Buf::Ffn(plane)) => Access::Write(Grid::cols(
                padded(self.ffn_dim, plane),
                plane.per_block(),
                0,
            )),
            (Step::Head, Buf::Logits) => Access::Write(Grid::cols(self.vocab_size, TILE_ROWS, 0)),
            _ => Access::None,
        }
    }

    /// Elements that a buffer needs at least for this pass.
    pub(super) fn len(&self, buf: Buf) -> usize {
        let padded = |n: usize, plane: Plane| n.div_ceil(BLOCK) * plane.per_block();
        let (head_dim, q_dim) = (self.kv.head_dim, self.n_heads * self.kv.head_dim);
        match buf {
            Buf::X => self.n_rows * self.dim,
            Buf::Rope => self.n_rows * head_dim,
            Buf::Norm(plane) => self.n_rows * padded(self.dim, plane),
            Buf::Q => self.n_rows * q_dim,
            Buf::Kv => self.n_pages * self.kv.page_bytes(),
            Buf::States => match self.attend {
                AttendBy::Rows { .. } => 0,
                AttendBy::Spans { n_slots } => n_slots * self.n_heads * (head_dim + 2),
            },
            Buf::Attn(plane) => self.n_rows * padded(q_dim, plane),
            Buf::Ffn(plane) => self.n_rows * padded(self.ffn_dim, plane),
            Buf::Logits => self.n_head_rows * self.vocab_size,
            Buf::Scratch => self.n_workers,
        }
    }
}

impl Grid {
    /// A unit for each row.
    const fn rows(cols: usize) -> Self {
        Self {
            stride: cols,
            cols,
            block_rows: 1,
            block_cols: cols,
            first_unit: 0,
        }
    }

    /// A unit for each `block_cols` columns, of all rows.
    const fn cols(cols: usize, block_cols: usize, first_unit: usize) -> Self {
        Self {
            stride: cols,
            cols,
            block_rows: usize::MAX,
            block_cols,
            first_unit,
        }
    }
}

#[cfg(test)]
mod tests;
