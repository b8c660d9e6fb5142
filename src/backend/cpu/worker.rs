//! One thread's part in a pass: every thread walks the layers, and these are its phases.
//!
//! A phase is one or several steps of the [`schedule`](super::schedule); each ends with a barrier.
//! Which units are this thread's follows from the step, what it may write from the units; no result
//! depends on either, since every output is computed from start to end by whoever owns it.

mod attention;
mod feed_forward;
mod project;

use std::{ops::Range, sync::atomic::AtomicUsize};

use chaski_kernels_simd::Kernels;
use chaski_models::{
    Config, Phases, Row,
    forward::{Observed, Site, walk},
    rope,
};
use chaski_quant::{ActRows, BLOCK, TILE_ROWS, TileRun, acts::ActRowMut};

use super::{
    buffers::{ActBuffers, CALL_ROWS, RowIndex, Scratch},
    kv::PageTable,
    schedule::{Begin, Buf, Plane, Shape, Step},
    shared::view::{Part, Pass, Turn, View},
    team::Poisoned,
};
use crate::weights::Weights;

/// Who looks at a pass; called by the first worker only.
pub(super) type Observer<'o> = dyn Fn(Observed<'_>) + Sync + 'o;

/// What all workers of a pass see.
pub(super) struct Job<'p> {
    pub(super) weights: &'p Weights,
    pub(super) config: &'p Config,
    pub(super) kernels: &'static Kernels,
    pub(super) shape: &'p Shape,
    pub(super) index: &'p RowIndex,
    pub(super) pages: &'p PageTable,
    pub(super) x: View<'p, f32>,
    pub(super) rope: View<'p, f32>,
    pub(super) norm: ActViews<'p>,
    pub(super) q: View<'p, f32>,
    pub(super) kv: View<'p, u8>,
    pub(super) states: View<'p, f32>,
    pub(super) attn: ActViews<'p>,
    pub(super) ffn: ActViews<'p>,
    pub(super) logits: View<'p, f32>,
    pub(super) scratch: View<'p, Scratch>,
    /// The least index of a logit that is not finite.
    pub(super) not_finite: &'p AtomicUsize,
    pub(super) observer: Option<&'p Observer<'p>>,
}

/// Activations that all workers see.
pub(super) struct ActViews<'p> {
    n_blocks: usize,
    floats: View<'p, f32>,
    codes: View<'p, i8>,
    scales: View<'p, f32>,
    sums: View<'p, [i16; 2]>,
}

impl<'p> ActViews<'p> {
    pub(super) fn new(pass: &'p Pass, of: fn(Plane) -> Buf, buffers: &'p mut ActBuffers) -> Self {
        Self {
            n_blocks: buffers.n_blocks,
            floats: pass.view(of(Plane::Floats), &mut buffers.floats),
            codes: pass.view(of(Plane::Codes), &mut buffers.codes),
            scales: pass.view(of(Plane::Scales), &mut buffers.scales),
            sums: pass.view(of(Plane::Sums), &mut buffers.sums),
        }
    }

    /// The first `n_rows` rows, in a step that reads them.
    fn read<'t>(&'t self, turn: &'t Turn<'_>, n_rows: usize) -> ActRows<'t> {
        let n = n_rows * self.n_blocks;
        ActRows::new(
            n_rows,
            self.n_blocks,
            &turn.read(&self.floats)[..n * BLOCK],
            &turn.read(&self.codes)[..n * BLOCK],
            &turn.read(&self.scales)[..n],
            &turn.read(&self.sums)[..n],
        )
    }

    fn codes<'t>(&'t self, turn: &'t Turn<'_>) -> CodeParts<'t> {
        CodeParts {
            codes: turn.part(&self.codes),
            scales: turn.part(&self.scales),
            sums: turn.part(&self.sums),
        }
    }
}

/// This worker's part of quantised activations.
struct CodeParts<'t> {
    codes: Part<'t, i8>,
    scales: Part<'t, f32>,
    sums: Part<'t, [i16; 2]>,
}

impl CodeParts<'_> {
    /// The same, and replaces the floats by what the codes stand for.
    fn round(&mut self, kernels: &Kernels, row: usize, first: usize, floats: &mut [f32]) {
        self.quantize(kernels, row, first, floats);
        let blocks = first..first + floats.len() / BLOCK;
        let codes = self
            .codes
            .row(row, blocks.start * BLOCK..blocks.end * BLOCK);
        let scales = self.scales.row(row, blocks);
        let floats = floats.chunks_exact_mut(BLOCK);
        for ((floats, codes), &d) in floats.zip(codes.chunks_exact(BLOCK)).zip(&*scales) {
            for (x, &code) in floats.iter_mut().zip(codes) {
                *x = f32::from(code) * d;
            }
        }
    }

    /// Quantises the blocks of row `row` from block `first` on, as many as `floats` are.
    fn quantize(&mut self, kernels: &Kernels, row: usize, first: usize, floats: &[f32]) {
        let blocks = first..first + floats.len() / BLOCK;
        kernels.quantize_row(ActRowMut {
            floats,
            codes: self
                .codes
                .row(row, blocks.start * BLOCK..blocks.end * BLOCK),
            scales: self.scales.row(row, blocks.clone()),
            sums: self.sums.row(row, blocks),
        });
    }
}

/// Walks a worker through a pass.
pub(super) fn work(job: &Job<'_>, turn: Turn<'_>) {
    let mut worker = Worker { job, turn };
    // Poisoned means that another worker panicked; the team tells of that one.
    let (Ok(()) | Err(Poisoned)) = match job.shape.begin {
        Begin::Tokens => walk(job.shape.kv.n_layers, &mut worker),
        Begin::Hidden => worker.head(),
    };
}

struct Worker<'a> {
    job: &'a Job<'a>,
    turn: Turn<'a>,
}

impl Worker<'_> {
    /// Shows rows to the observer, if there is one. `values` is only called for the first worker, in a
    /// step that reads them; `blocks`: they are padded to so many blocks.
    fn observe<'t>(
        &'t self,
        site: Site,
        layer: usize,
        width: usize,
        blocks: Option<usize>,
        values: &View<'t, f32>,
    ) {
        let Some(observer) = self.job.observer.filter(|_| self.turn.is_first()) else {
            return;
        };
        let stride = blocks.map_or(width, |b| b * BLOCK);
        let n_rows = match site {
            Site::Head => self.job.shape.n_head_rows,
            _ => self.job.shape.n_rows,
        };
        let seen = Observed::new(site, layer, n_rows, width, stride, self.turn.read(values));
        observer(seen);
    }

    /// The same for activations.
    fn observe_acts<'t>(&'t self, site: Site, layer: usize, width: usize, acts: &'t ActViews<'t>) {
        self.observe(site, layer, width, Some(acts.n_blocks), &acts.floats);
    }

    /// Norm of `x` into the shared activations, row by row; the step's end is not waited for.
    ///
    /// `row_of` gives the row of `x` for a unit.
    fn norm_rows(&self, weight: &[f32], quantize: bool, row_of: impl Fn(usize) -> usize) {
        let (job, turn) = (self.job, &self.turn);
        let (dim, views) = (job.config.dim, &job.norm);
        let x = turn.read(&job.x);
        let (mut floats, mut codes) = (turn.part(&views.floats), views.codes(turn));
        for unit in turn.units() {
            let row = row_of(unit);
            let x = &x[row * dim..(row + 1) * dim];
            // The columns past `dim` are never written and stay zero.
            let floats = floats.row(unit, 0..views.n_blocks * BLOCK);
            job.kernels
                .rms_norm(x, weight, job.config.norm_eps, &mut floats[..dim]);
            if job.shape.rounded {
                codes.round(job.kernels, unit, 0, floats);
            } else if quantize {
                codes.quantize(job.kernels, unit, 0, floats);
            }
        }
    }

    /// Norm of row `row` of `x` into this worker's own activations.
    fn norm_own<'s>(
        &self,
        scratch: &'s mut Scratch,
        weight: &[f32],
        quantize: bool,
        row: usize,
    ) -> (ActRows<'s>, &'s mut [f32], &'s mut [f32]) {
        let (job, dim) = (self.job, self.job.config.dim);
        let x = &self.turn.read(&job.x)[row * dim..(row + 1) * dim];
        self.fill_own(scratch, job.norm.n_blocks, quantize, |floats| {
            job.kernels
                .rms_norm(x, weight, job.config.norm_eps, &mut floats[..dim]);
            floats[dim..].fill(0.0);
        })
    }

    /// One row of own activations, whose floats `fill` writes; then the scratch for results and for
    /// heads.
    fn fill_own<'s>(
        &self,
        scratch: &'s mut Scratch,
        n_blocks: usize,
        quantize: bool,
        fill: impl FnOnce(&mut [f32]),
    ) -> (ActRows<'s>, &'s mut [f32], &'s mut [f32]) {
        let Scratch {
            acts, out, head, ..
        } = scratch;
        acts.set_blocks(n_blocks);
        fill(acts.floats_mut(0));
        if quantize {
            self.job.kernels.quantize_row(acts.row_mut(0));
        }
        (acts.rows(1), out, head)
    }
}

/// Results of a matrix kernel, `[tile, row, 16]`, as columns of rows.
struct Results<'o> {
    out: &'o [f32],
    n_rows: usize,
}

impl Results<'_> {
    /// Walks the columns that `row` has from tile `first` on, as many as `to` is long: `each(column,
    /// result)`. Inlined, with the 16 columns of a tile at once: calls for each 16 cost as much as what
    /// they do.
    #[inline]
    fn each(&self, row: usize, first: usize, to: &mut [f32], each: impl Fn(&mut f32, f32)) {
        let (tiles, rest) = to.as_chunks_mut::<TILE_ROWS>();
        let n_tiles = tiles.len();
        let lanes = |i: usize| {
            let at = ((first + i) * self.n_rows + row) * TILE_ROWS;
            &self.out[at..at + TILE_ROWS]
        };
        for (i, to) in tiles.iter_mut().enumerate() {
            let y: &[f32; TILE_ROWS] = lanes(i).as_array().expect("16 lanes");
            for j in 0..TILE_ROWS {
                each(&mut to[j], y[j]);
            }
        }
        if !rest.is_empty() {
            for (to, y) in rest.iter_mut().zip(lanes(n_tiles)) {
                each(to, *y);
            }
        }
    }

    /// Copies those columns.
    fn copy(&self, row: usize, first: usize, to: &mut [f32]) {
        self.each(row, first, to, |to, y| *to = y);
    }

    /// Adds those columns.
    fn add(&self, row: usize, first: usize, to: &mut [f32]) {
        self.each(row, first, to, |to, y| *to += y);
    }
}

/// Multiplies this worker's tiles with `acts`, some tiles at a time, and hands the results of each
/// row to `sink(row, columns of it, results)`; columns past `cols` are padding and left out.
fn product(
    kernels: &Kernels,
    turn: &Turn<'_>,
    run: &TileRun<'_>,
    acts: &ActRows<'_>,
    out: &mut [f32],
    cols: usize,
    mut sink: impl FnMut(usize, Range<usize>, &Results<'_>),
) {
    let (share, n_rows) = (turn.units().stretch(), acts.n_rows());
    let step = (CALL_ROWS / n_rows).max(1);
    for first in share.clone().step_by(step) {
        let last = (first + step).min(share.end);
        let out = &mut out[..(last - first) * n_rows * TILE_ROWS];
        kernels.matmul(&run.slice(first..last), acts, out);
        let results = Results { out, n_rows };
        for row in 0..n_rows {
            let columns = first * TILE_ROWS..cols.min(last * TILE_ROWS);
            sink(row, columns, &results);
        }
    }
}

impl Phases for Worker<'_> {
    type Error = Poisoned;

    fn embed(&mut self) -> Result<(), Poisoned> {
        let (job, turn) = (self.job, &self.turn);
        let (mut x, mut rope) = (turn.part(&job.x), turn.part(&job.rope));
        let head_dim = job.config.head_dim;
        for row in turn.units() {
            let Row { token, pos, .. } = job.index.rows[row];
            job.weights
                .embedding(job.kernels, token, x.row(row, 0..job.config.dim));
            let (cos, sin) = rope.row(row, 0..head_dim).split_at_mut(head_dim / 2);
            rope::fill(job.weights.inv_freqs(), pos, cos, sin);
        }
        self.turn.advance()
    }

    fn qkv(&mut self, layer: usize) -> Result<(), Poisoned> {
        let weights = self.job.weights.layer(layer);
        if self.turn.step() == Step::NormAttn {
            self.observe(Site::Layer, layer, self.job.config.dim, None, &self.job.x);
            self.norm_rows(&weights.attn_norm, weights.qkv_is_quantized(), |unit| unit);
            self.turn.advance()?;
        }
        self.observe_acts(Site::Qkv, layer, self.job.config.dim, &self.job.norm);
        self.project_qkv(layer);
        self.turn.advance()
    }

    fn attention(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.attend(layer);
        self.turn.advance()?;
        if self.turn.step() == Step::Merge {
            self.merge_spans();
            self.turn.advance()?;
        }
        Ok(())
    }

    fn attn_output(&mut self, layer: usize) -> Result<(), Poisoned> {
        let matrix = &self.job.weights.layer(layer).attn_output;
        if self.turn.step() == Step::QuantAttn {
            if self.job.shape.rounded {
                self.round_attention();
            } else if matrix.is_quantized() {
                self.quantize_attention();
            }
            self.turn.advance()?;
        }
        let width = self.job.config.q_dim();
        self.observe_acts(Site::AttnOutput, layer, width, &self.job.attn);
        self.project_attention(matrix);
        self.turn.advance()
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), Poisoned> {
        let weights = self.job.weights.layer(layer);
        if self.turn.step() == Step::NormFfn {
            self.norm_rows(&weights.ffn_norm, weights.gate_up.is_quantized(), |unit| {
                unit
            });
            self.turn.advance()?;
        }
        self.observe_acts(Site::GateUp, layer, self.job.config.dim, &self.job.norm);
        self.project_gate_up(layer);
        self.turn.advance()
    }

    fn down(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.observe_acts(Site::Down, layer, self.job.config.ffn_dim, &self.job.ffn);
        self.project_down(layer);
        self.turn.advance()
    }

    fn head(&mut self) -> Result<(), Poisoned> {
        let (job, norm) = (self.job, self.job.weights.output_norm());
        if self.turn.step() == Step::NormHead {
            let quantize = job.weights.output().is_quantized();
            self.norm_rows(norm, quantize, |unit| job.index.head_rows[unit]);
            self.turn.advance()?;
        }
        if self.turn.step() == Step::Head {
            self.observe_acts(Site::Head, job.config.n_layers, job.config.dim, &job.norm);
            self.project_head();
            self.turn.advance()?;
        }
        Ok(())
    }
}
