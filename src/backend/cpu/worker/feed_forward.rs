//! The feed-forward network.

use chaski_quant::{BLOCK, TILE_ROWS};

use super::{Results, Scratch, Worker};
use crate::backend::cpu::buffers::CALL_ROWS;

/// Tiles of gate, and of up, in a unit: 32 rows, so that a unit writes whole activation blocks.
const UNIT_TILES: usize = BLOCK / TILE_ROWS;
/// Units of one call of the matrix kernel.
const MAX_UNITS: usize = 8;

impl Worker<'_> {
    /// Norm, gate and up, `silu(gate) * up`, quantised block by block by whoever made it.
    pub(super) fn project_gate_up(&self, layer: usize) {
        let (job, turn) = (self.job, &self.turn);
        let (n_rows, weights) = (job.shape.n_rows, job.weights.layer(layer));
        let scratch = turn.own(&job.scratch);
        let (acts, out, _) = if job.shape.each_norms() {
            self.norm_own(
                scratch,
                &weights.ffn_norm,
                weights.gate_up.is_quantized(),
                0,
            )
        } else {
            let Scratch { out, head, .. } = scratch;
            (job.norm.read(turn, n_rows), &mut out[..], &mut head[..])
        };
        // Tiles 2i and 2i + 1 are gate's and up's tile i.
        let run = job.weights.pair_tiles(&weights.gate_up);
        let quantize = weights.down.is_quantized();
        let (mut floats, mut codes) = (turn.part(&job.ffn.floats), job.ffn.codes(turn));
        let units = turn.units().stretch();
        let step = (CALL_ROWS / (2 * UNIT_TILES * n_rows)).clamp(1, MAX_UNITS);
        // Once for all rows: to clear them for each takes as long as to fill them.
        let (mut gate, mut up) = ([0.0; MAX_UNITS * BLOCK], [0.0; MAX_UNITS * BLOCK]);
        let mut hidden = [0.0; MAX_UNITS * BLOCK];
        for first in units.clone().step_by(step) {
            let last = (first + step).min(units.end);
            let tiles = 2 * UNIT_TILES * first..(2 * UNIT_TILES * last).min(run.n_tiles());
            let out = &mut out[..tiles.len() * n_rows * TILE_ROWS];
            job.kernels.matmul(&run.slice(tiles), &acts, out);
            // Of each pair of tiles the first is gate's.
            let n = (job.config.ffn_dim - first * BLOCK).min((last - first) * BLOCK);
            let pairs = Results {
                out,
                n_rows: 2 * n_rows,
            };
            for row in 0..n_rows {
                let (gate, up) = (&mut gate[..n], &mut up[..n]);
                pairs.copy(row, 0, gate);
                pairs.copy(n_rows + row, 0, up);
                if quantize && !job.shape.rounded && !job.shape.observed {
                    // Nobody reads the numbers themselves, and where they would lie is far apart from row to row.
                    let hidden = &mut hidden[..(last - first) * BLOCK];
                    job.kernels.swiglu(gate, up, &mut hidden[..n]);
                    hidden[n..].fill(0.0);
                    codes.quantize(job.kernels, row, first, hidden);
                    continue;
                }
                // The columns past `ffn_dim` are never written and stay zero.
                let floats = floats.row(row, first * BLOCK..last * BLOCK);
                job.kernels.swiglu(gate, up, &mut floats[..n]);
                if job.shape.rounded {
                    codes.round(job.kernels, row, first, floats);
                } else if quantize {
                    codes.quantize(job.kernels, row, first, floats);
                }
            }
        }
    }

    /// Down matrix, added to `x`.
    pub(super) fn project_down(&self, layer: usize) {
        let (job, turn) = (self.job, &self.turn);
        let acts = job.ffn.read(turn, job.shape.n_rows);
        let scratch = turn.own(&job.scratch);
        self.add_product(&job.weights.layer(layer).down, &acts, &mut scratch.out);
    }
}
