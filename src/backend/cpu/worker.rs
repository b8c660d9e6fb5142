//! One pass: every thread walks the layers, and these are its steps in each phase.
//!
//! Who writes what, between two barriers (the argument of every `SAFETY` comment below):
//!
//! | phase | written | by the owner of |
//! |---|---|---|
//! | embed | `x`, `cos`, `sin` | a row |
//! | prepare (norm, quantise) | `acts_dim`, `acts_q` | a row; a pass of one row: nobody, each has its own |
//! | qkv | `q`, the KV cache | a head |
//! | attention | `partials`, or `acts_q` floats | a KV head and a span, or a KV head and a block of rows |
//! | attn_output, down | `x` | a range of columns |
//! | gate_up | `acts_ffn` | 32 columns, which are one block |
//! | head | `logits` | a range of columns |
//!
//! Everything else that a phase touches it only reads.
#![allow(unsafe_code)]

mod attention;
mod feed_forward;
mod project;

use std::{
    error::Error,
    fmt,
    sync::{MutexGuard, PoisonError},
};

use chaski_kernels_simd::Kernels;
use chaski_models::{
    forward::{Phases, Row, walk},
    rope,
};
use chaski_quant::ActRows;

use super::{
    buffers::{Buffers, Scratch, SharedActs},
    kv::KvCache,
    team::{Member, Poisoned, Team, TeamError},
};
use crate::weights::Weights;

/// Why a pass failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum PassError {
    /// The threads failed.
    Team(TeamError),
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Team(_) => f.write_str("the forward pass stopped"),
        }
    }
}

impl Error for PassError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Team(e) => Some(e),
        }
    }
}

/// What all workers of a pass see.
struct Pass<'a> {
    weights: &'a Weights,
    kernels: &'static Kernels,
    rows: &'a [Row],
    /// The rows whose logits are wanted.
    logit_rows: &'a [usize],
    buffers: &'a Buffers,
    kv: &'a KvCache,
    /// The pages of each sequence.
    pages: &'a [&'a [u32]],
}

/// Runs `rows` through the model; the logits of `logit_rows` are in `buffers` afterwards.
///
/// Rows of one sequence are in the order of their positions. `pages[row.seq]` covers every position
/// up to `row.pos`.
///
/// # Errors
///
/// [`PassError::Team`] if a worker panicked; the KV cache is then undefined from the first row's
/// position on.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a session, borrowed one by one"
)]
pub fn forward(
    team: &mut Team,
    weights: &Weights,
    kernels: &'static Kernels,
    buffers: &mut Buffers,
    kv: &mut KvCache,
    pages: &[&[u32]],
    rows: &[Row],
    logit_rows: &[usize],
) -> Result<(), PassError> {
    if rows.is_empty() {
        return Ok(());
    }
    // Exclusive borrows until the team is done: nobody else sees the buffers meanwhile.
    let pass = Pass {
        weights,
        kernels,
        rows,
        logit_rows,
        buffers,
        kv,
        pages,
    };
    let pass = &pass;
    team.run(|member| {
        let scratch = &pass.buffers.scratch[member.index()];
        let mut worker = Worker {
            pass,
            member,
            scratch: scratch.lock().unwrap_or_else(PoisonError::into_inner),
        };
        walk(pass.weights.config().n_layers, &mut worker)
    })
    .map_err(PassError::Team)
}

struct Worker<'a> {
    pass: &'a Pass<'a>,
    member: Member<'a>,
    scratch: MutexGuard<'a, Scratch>,
}

impl<'a> Worker<'a> {
    /// Prepares activations: `fill` writes the first `width` floats of a row, the rest of its blocks
    /// is zero; `quantize` says whether codes are needed too.
    ///
    /// A single row is prepared by every thread in its own scratch, which costs less than waiting
    /// for another thread; several rows are shared out and end with a barrier.
    fn prepare(
        &mut self,
        shared: &'a SharedActs,
        n_rows: usize,
        width: usize,
        quantize: bool,
        fill: impl Fn(&Pass<'_>, &mut Scratch, usize, &mut [f32]),
    ) -> Result<Prepared<'a>, Poisoned> {
        let (pass, n_blocks) = (self.pass, shared.n_blocks);
        if n_rows == 1 {
            // Taken out for the call, so that `fill` may use the rest of the scratch.
            let mut acts = std::mem::replace(&mut self.scratch.acts, chaski_quant::Acts::new(0, 0));
            acts.set_blocks(n_blocks);
            let floats = acts.floats_mut(0);
            fill(pass, &mut self.scratch, 0, &mut floats[..width]);
            floats[width..].fill(0.0);
            if quantize {
                pass.kernels.quantize_row(acts.row_mut(0));
            }
            self.scratch.acts = acts;
            return Ok(Prepared::Own);
        }
        for row in self.member.share(n_rows) {
            // SAFETY: this thread owns the row until the barrier below.
            let floats = unsafe { shared.floats_mut(row) };
            fill(pass, &mut self.scratch, row, &mut floats[..width]);
            if quantize {
                // SAFETY: as above; `floats` is not used any more.
                pass.kernels
                    .quantize_row(unsafe { shared.row_mut(row, 0, n_blocks) });
            }
        }
        self.member.wait()?;
        // SAFETY: after the barrier the rows are only read, until the phase's own barrier.
        Ok(Prepared::Shared(unsafe { shared.rows(n_rows) }))
    }

    /// Norm of `x` into `acts_dim`, quantised if asked for.
    fn prepare_norm(
        &mut self,
        weight: &[f32],
        rows: usize,
        quantize: bool,
        row_of: impl Fn(usize) -> usize,
    ) -> Result<Prepared<'a>, Poisoned> {
        let config = self.pass.weights.config();
        let (dim, eps) = (config.dim, config.norm_eps);
        let shared = &self.pass.buffers.acts_dim;
        self.prepare(shared, rows, dim, quantize, |pass, _, i, out| {
            let row = row_of(i);
            // SAFETY: `x` is only read between the barriers around this.
            let x = unsafe { pass.buffers.x.read(row * dim..(row + 1) * dim) };
            pass.kernels.rms_norm(x, weight, eps, out);
        })
    }
}

/// Activations that are ready to be read.
enum Prepared<'a> {
    /// One row in the thread's scratch.
    Own,
    /// All rows, in the shared buffers.
    Shared(ActRows<'a>),
}

impl Prepared<'_> {
    /// The rows, and the rest of the scratch that a kernel writes to.
    fn rows<'s>(
        &'s self,
        scratch: &'s mut Scratch,
    ) -> (ActRows<'s>, &'s mut Vec<f32>, &'s mut Vec<f32>) {
        let Scratch {
            acts, out, head, ..
        } = scratch;
        match self {
            Self::Own => (acts.rows(1), out, head),
            Self::Shared(rows) => (*rows, out, head),
        }
    }
}

impl Phases for Worker<'_> {
    type Error = Poisoned;

    fn embed(&mut self) -> Result<(), Poisoned> {
        let pass = self.pass;
        let config = pass.weights.config();
        let (dim, half) = (config.dim, config.head_dim / 2);
        for row in self.member.share(pass.rows.len()) {
            let Row { token, pos, .. } = pass.rows[row];
            // SAFETY: this thread owns the row until the barrier below.
            let (x, cos, sin) = unsafe {
                (
                    pass.buffers.x.write(row * dim..(row + 1) * dim),
                    pass.buffers.cos.write(row * half..(row + 1) * half),
                    pass.buffers.sin.write(row * half..(row + 1) * half),
                )
            };
            pass.weights.embedding(pass.kernels, token, x);
            rope::fill(pass.weights.inv_freqs(), pos, cos, sin);
        }
        self.member.wait()
    }

    fn qkv(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.project_qkv(layer)?;
        self.member.wait()
    }

    fn attention(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.attend(layer);
        self.member.wait()
    }

    fn attn_output(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.attention_output(layer)?;
        self.member.wait()
    }

    fn gate_up(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.gate_and_up(layer)?;
        self.member.wait()
    }

    fn down(&mut self, layer: usize) -> Result<(), Poisoned> {
        self.project_down(layer);
        self.member.wait()
    }

    fn head(&mut self) -> Result<(), Poisoned> {
        self.output_head()?;
        self.member.wait()
    }
}
