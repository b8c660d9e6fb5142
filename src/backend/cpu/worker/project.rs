//! Phases that are a matrix and what belongs to it: QKV, attention output, head.

use chaski_quant::TILE_ROWS;

use super::{Poisoned, Worker};
use crate::{
    backend::cpu::buffers::{CALL_ROWS, SPLIT_ROWS},
    weights::{Matrix, Projection},
};

/// Which matrix a unit of the QKV phase belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Query,
    Key,
    Value,
}

impl Worker<'_> {
    /// Norm, then Q, K and V by heads: bias, norm of the head, RoPE, and into its place.
    pub(super) fn project_qkv(&mut self, layer: usize) -> Result<(), Poisoned> {
        let pass = self.pass;
        let (config, n_rows) = (pass.weights.config(), pass.rows.len());
        let weights = pass.weights.layer(layer);
        let quantize = [&weights.q, &weights.k, &weights.v]
            .iter()
            .any(|p| p.matrix.is_quantized());
        let prepared = self.prepare_norm(&weights.attn_norm, n_rows, quantize, |i| i)?;
        let (rows, out, head) = prepared.rows(&mut self.scratch);
        let (hd, n_heads, n_kv) = (config.head_dim, config.n_heads, config.n_kv_heads);
        let (group, half) = (config.gqa_group(), config.head_dim / 2);
        for unit in self.member.share(n_heads + 2 * n_kv) {
            let (part, i) = match unit {
                u if u < n_heads => (Part::Query, u),
                u if u < n_heads + n_kv => (Part::Key, u - n_heads),
                u => (Part::Value, u - n_heads - n_kv),
            };
            let Projection { matrix, bias, norm } = match part {
                Part::Query => &weights.q,
                Part::Key => &weights.k,
                Part::Value => &weights.v,
            };
            let tiles = hd.div_ceil(TILE_ROWS);
            let run = pass.weights.tiles(matrix).slice(i * tiles..(i + 1) * tiles);
            let out = &mut out[..tiles * n_rows * TILE_ROWS];
            pass.kernels.matmul(&run, &rows, out);
            for (r, row) in pass.rows.iter().enumerate() {
                let (head, normed) = head.split_at_mut(hd);
                for (tile, lanes) in head.chunks_mut(TILE_ROWS).enumerate() {
                    let from = (tile * n_rows + r) * TILE_ROWS;
                    lanes.copy_from_slice(&out[from..from + lanes.len()]);
                }
                if let Some(bias) = bias {
                    pass.kernels.add(head, &bias[i * hd..(i + 1) * hd]);
                }
                let head = match norm {
                    Some(norm) => {
                        pass.kernels.rms_norm(head, norm, config.norm_eps, normed);
                        normed
                    }
                    None => head,
                };
                if part != Part::Value {
                    // SAFETY: written in the embed phase, only read since.
                    let (cos, sin) = unsafe {
                        (
                            pass.buffers.cos.read(r * half..(r + 1) * half),
                            pass.buffers.sin.read(r * half..(r + 1) * half),
                        )
                    };
                    pass.kernels.rope(head, cos, sin);
                }
                if part == Part::Query {
                    let at = (((i / group) * n_rows + r) * group + i % group) * hd;
                    // SAFETY: this thread owns query head `i` in this phase.
                    unsafe { pass.buffers.q.write(at..at + hd) }.copy_from_slice(head);
                } else {
                    let value = part == Part::Value;
                    let kv_type = pass.kv.shape().kv_type;
                    let (page, pos) = pass.page(row.seq, row.pos);
                    let at = pass.kv.part(page, layer, i, value);
                    // SAFETY: this thread owns KV head `i`'s keys, or its values, in this phase,
                    // and rows of this pass are at different positions.
                    let part = unsafe { pass.kv.bytes().write(at) };
                    if value {
                        pass.kernels.store_value(kv_type, part, pos, head);
                    } else {
                        pass.kernels.store_key(kv_type, part, pos, head);
                    }
                }
            }
        }
        Ok(())
    }

    /// Attention output matrix, added to `x`.
    pub(super) fn attention_output(&mut self, layer: usize) -> Result<(), Poisoned> {
        let pass = self.pass;
        let matrix = &pass.weights.layer(layer).attn_output;
        let n_rows = pass.rows.len();
        let n_spans = pass.n_spans();
        let shared = &pass.buffers.acts_q;
        let width = pass.weights.config().q_dim();
        let prepared = self.prepare(
            shared,
            n_rows,
            width,
            matrix.is_quantized(),
            |pass, scratch, row, out| {
                // Larger passes have their floats in place already.
                if n_rows <= SPLIT_ROWS {
                    pass.merge_spans(scratch, n_spans, row, out);
                }
            },
        )?;
        self.add_product(matrix, &prepared);
        Ok(())
    }

    /// `x += matrix * activations`, by ranges of columns of `x`.
    pub(super) fn add_product(&mut self, matrix: &Matrix, prepared: &super::Prepared<'_>) {
        let pass = self.pass;
        let (dim, n_rows) = (pass.weights.config().dim, pass.rows.len());
        let (rows, out, _) = prepared.rows(&mut self.scratch);
        let run = pass.weights.tiles(matrix);
        let share = self.member.share(run.n_tiles());
        let step = (CALL_ROWS / n_rows).max(1);
        for first in share.clone().step_by(step) {
            let last = (first + step).min(share.end);
            let out = &mut out[..(last - first) * n_rows * TILE_ROWS];
            pass.kernels.matmul(&run.slice(first..last), &rows, out);
            for (i, lanes) in out.chunks_exact(TILE_ROWS).enumerate() {
                let (tile, row) = (first + i / n_rows, i % n_rows);
                let columns = tile * TILE_ROWS..dim.min((tile + 1) * TILE_ROWS);
                // SAFETY: this thread owns the tile's columns of every row in this phase.
                let x = unsafe {
                    pass.buffers
                        .x
                        .write(row * dim + columns.start..row * dim + columns.end)
                };
                for (x, y) in x.iter_mut().zip(lanes) {
                    *x += y;
                }
            }
        }
    }

    /// Last norm and output matrix, for the rows whose logits are wanted.
    pub(super) fn output_head(&mut self) -> Result<(), Poisoned> {
        let pass = self.pass;
        let n_rows = pass.logit_rows.len();
        if n_rows == 0 {
            return Ok(());
        }
        let matrix = pass.weights.output();
        let quantize = matrix.is_quantized();
        let prepared = self.prepare_norm(pass.weights.output_norm(), n_rows, quantize, |i| {
            pass.logit_rows[i]
        })?;
        let vocab = pass.weights.config().vocab_size;
        let (rows, out, _) = prepared.rows(&mut self.scratch);
        let run = pass.weights.tiles(matrix);
        let share = self.member.share(run.n_tiles());
        let step = (CALL_ROWS / n_rows).max(1);
        for first in share.clone().step_by(step) {
            let last = (first + step).min(share.end);
            let out = &mut out[..(last - first) * n_rows * TILE_ROWS];
            pass.kernels.matmul(&run.slice(first..last), &rows, out);
            for (i, lanes) in out.chunks_exact(TILE_ROWS).enumerate() {
                let (tile, row) = (first + i / n_rows, i % n_rows);
                let start = row * vocab + tile * TILE_ROWS;
                let end = (row + 1) * vocab;
                let end = end.min(start + TILE_ROWS);
                // SAFETY: this thread owns the tile's columns of every row in this phase.
                let logits = unsafe { pass.buffers.logits.write(start..end) };
                logits.copy_from_slice(&lanes[..end - start]);
            }
        }
        Ok(())
    }
}
