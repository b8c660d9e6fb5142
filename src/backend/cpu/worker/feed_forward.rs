//! The feed-forward network.

use chaski_quant::{BLOCK, TILE_ROWS};

use super::{Poisoned, Prepared, Worker};

/// Tile pairs of gate and up in a unit: 32 rows, so that a unit writes whole activation blocks.
const UNIT_PAIRS: usize = BLOCK / TILE_ROWS;

impl Worker<'_> {
    /// Norm, gate and up, `silu(gate) * up`, quantised block by block by whoever made it.
    pub(super) fn gate_and_up(&mut self, layer: usize) -> Result<(), Poisoned> {
        let pass = self.pass;
        let n_rows = pass.rows.len();
        let weights = pass.weights.layer(layer);
        let prepared = self.prepare_norm(
            &weights.ffn_norm,
            n_rows,
            weights.gate_up.is_quantized(),
            |i| i,
        )?;
        let (rows, out, _) = prepared.rows(&mut self.scratch);
        let shared = &pass.buffers.acts_ffn;
        let ffn_dim = pass.weights.config().ffn_dim;
        // Tiles 2i and 2i + 1 are gate's and up's tile i.
        let run = pass.weights.pair_tiles(&weights.gate_up);
        let quantize = weights.down.is_quantized();
        for unit in self.member.share(shared.n_blocks) {
            let first = unit * 2 * UNIT_PAIRS;
            let last = (first + 2 * UNIT_PAIRS).min(run.n_tiles());
            let out = &mut out[..(last - first) * n_rows * TILE_ROWS];
            pass.kernels.matmul(&run.slice(first..last), &rows, out);
            let columns = unit * BLOCK..ffn_dim.min((unit + 1) * BLOCK);
            let n = columns.len();
            for row in 0..n_rows {
                let (mut gate, mut up) = ([0.0; BLOCK], [0.0; BLOCK]);
                for pair in 0..(last - first) / 2 {
                    let lanes =
                        |tile: usize| &out[(tile * n_rows + row) * TILE_ROWS..][..TILE_ROWS];
                    let to = pair * TILE_ROWS..(pair + 1) * TILE_ROWS;
                    gate[to.clone()].copy_from_slice(lanes(2 * pair));
                    up[to].copy_from_slice(lanes(2 * pair + 1));
                }
                // SAFETY: this thread owns block `unit` of every row in this phase. The columns past
                // `ffn_dim` are never written and stay zero.
                let floats = unsafe { &mut shared.floats_block_mut(row, unit)[..n] };
                pass.kernels.swiglu(&gate[..n], &up[..n], floats);
                if quantize {
                    // SAFETY: as above; `floats` is not used any more.
                    pass.kernels
                        .quantize_row(unsafe { shared.row_mut(row, unit, 1) });
                }
            }
        }
        Ok(())
    }

    /// Down matrix, added to `x`.
    pub(super) fn project_down(&mut self, layer: usize) {
        let pass = self.pass;
        // SAFETY: written in the phase before, only read in this one.
        let rows = unsafe { pass.buffers.acts_ffn.rows(pass.rows.len()) };
        self.add_product(&pass.weights.layer(layer).down, &Prepared::Shared(rows));
    }
}
