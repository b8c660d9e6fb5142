//! The feed-forward network.

use chaski_quant::{BLOCK, TILE_ROWS};

use super::{Scratch, Worker};

/// Tiles of gate, and of up, in a unit: 32 rows, so that a unit writes whole activation blocks.
const UNIT_TILES: usize = BLOCK / TILE_ROWS;

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
        for unit in turn.units() {
            let first = unit * 2 * UNIT_TILES;
            let last = (first + 2 * UNIT_TILES).min(run.n_tiles());
            let out = &mut out[..(last - first) * n_rows * TILE_ROWS];
            job.kernels.matmul(&run.slice(first..last), &acts, out);
            let n = (job.config.ffn_dim - unit * BLOCK).min(BLOCK);
            for row in 0..n_rows {
                let (mut gate, mut up) = ([0.0; BLOCK], [0.0; BLOCK]);
                for pair in 0..(last - first) / 2 {
                    let lanes =
                        |tile: usize| &out[(tile * n_rows + row) * TILE_ROWS..][..TILE_ROWS];
                    let to = pair * TILE_ROWS..(pair + 1) * TILE_ROWS;
                    gate[to.clone()].copy_from_slice(lanes(2 * pair));
                    up[to].copy_from_slice(lanes(2 * pair + 1));
                }
                // The columns past `ffn_dim` are never written and stay zero.
                let floats = floats.row(row, unit * BLOCK..(unit + 1) * BLOCK);
                job.kernels.swiglu(&gate[..n], &up[..n], &mut floats[..n]);
                if quantize {
                    codes.quantize(job.kernels, row, unit, floats);
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
