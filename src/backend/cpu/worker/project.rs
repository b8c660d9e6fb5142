//! Phases that are a matrix and what belongs to it: QKV, attention output, head.

use std::sync::atomic::Ordering;

use chaski_quant::{BLOCK, TILE_ROWS, scalar::attention::KV_TILE};

use super::{ActRows, Results, Scratch, Worker, product};
use crate::weights::{Matrix, Projection};

impl Worker<'_> {
    /// Norm, then Q, K and V by heads: bias, norm of the head, RoPE, and into its place.
    pub(super) fn project_qkv(&self, layer: usize) {
        let (job, turn, config) = (self.job, &self.turn, self.job.config);
        let weights = job.weights.layer(layer);
        let scratch = turn.own(&job.scratch);
        let n_rows = job.shape.n_rows;
        let (acts, out, head) = if job.shape.each_norms() {
            self.norm_own(scratch, &weights.attn_norm, weights.qkv_is_quantized(), 0)
        } else {
            (
                job.norm.read(turn, n_rows),
                &mut scratch.out[..],
                &mut scratch.head[..],
            )
        };
        let (hd, n_heads) = (config.head_dim, config.n_heads);
        let (kv, n_tiles) = (&job.shape.kv, config.head_dim.div_ceil(TILE_ROWS));
        let rope = turn.read(&job.rope);
        let (mut q_part, mut kv_part) = (turn.part(&job.q), turn.part(&job.kv));
        for unit in turn.units() {
            // Query heads, then the key and the value head of each KV head.
            let (projection, i, value) = match unit.checked_sub(n_heads) {
                None => (&weights.q, unit, false),
                Some(u) if u % 2 == 0 => (&weights.k, u / 2, false),
                Some(u) => (&weights.v, u / 2, true),
            };
            let Projection { matrix, bias, norm } = projection;
            let run = job
                .weights
                .tiles(matrix)
                .slice(i * n_tiles..(i + 1) * n_tiles);
            let out = &mut out[..n_tiles * n_rows * TILE_ROWS];
            job.kernels.matmul(&run, &acts, out);
            for (r, row) in job.index.rows.iter().enumerate() {
                let (head, normed) = head.split_at_mut(hd);
                Results { out, n_rows }.copy(r, 0, head);
                if let Some(bias) = bias {
                    job.kernels.add(head, &bias[i * hd..(i + 1) * hd]);
                }
                let head = match norm {
                    Some(norm) => {
                        job.kernels.rms_norm(head, norm, config.norm_eps, normed);
                        normed
                    }
                    None => head,
                };
                if !value {
                    let (cos, sin) = rope[r * hd..(r + 1) * hd].split_at(hd / 2);
                    job.kernels.rope(head, cos, sin);
                }
                if unit < n_heads {
                    q_part.row(r, i * hd..(i + 1) * hd).copy_from_slice(head);
                    continue;
                }
                let (page, pos) = (
                    job.pages.page(row.seq, row.pos / KV_TILE),
                    row.pos % KV_TILE,
                );
                // A row of the grid is one layer of one page.
                let part = (unit - n_heads) * kv.part_bytes();
                let row = page * kv.n_layers + layer;
                let part = kv_part.row(row, part..part + kv.part_bytes());
                if value {
                    job.kernels.store_value(kv.kv_type, part, pos, head);
                } else {
                    job.kernels.store_key(kv.kv_type, part, pos, head);
                }
            }
        }
    }

    /// Attention results of many rows, quantised.
    pub(super) fn quantize_attention(&self) {
        let (job, turn, views) = (self.job, &self.turn, &self.job.attn);
        let floats = turn.read(&views.floats);
        let mut codes = views.codes(turn);
        let k = views.n_blocks * BLOCK;
        for row in turn.units() {
            codes.quantize(job.kernels, row, 0, &floats[row * k..(row + 1) * k]);
        }
    }

    /// Attention results, quantised and read back.
    pub(super) fn round_attention(&self) {
        let (job, turn, views) = (self.job, &self.turn, &self.job.attn);
        let (mut floats, mut codes) = (turn.part(&views.floats), views.codes(turn));
        for row in turn.units() {
            let floats = floats.row(row, 0..views.n_blocks * BLOCK);
            codes.round(job.kernels, row, 0, floats);
        }
    }

    /// Attention output matrix, added to `x`.
    pub(super) fn project_attention(&self, matrix: &Matrix) {
        let (job, turn, views) = (self.job, &self.turn, &self.job.attn);
        let scratch = turn.own(&job.scratch);
        let (acts, out, _) = if job.shape.each_norms() {
            let floats = &turn.read(&views.floats)[..views.n_blocks * BLOCK];
            self.fill_own(scratch, views.n_blocks, matrix.is_quantized(), |own| {
                own.copy_from_slice(floats);
            })
        } else {
            let Scratch { out, head, .. } = scratch;
            (
                views.read(turn, job.shape.n_rows),
                &mut out[..],
                &mut head[..],
            )
        };
        self.add_product(matrix, &acts, out);
    }

    /// `x += matrix * acts`.
    pub(super) fn add_product(&self, matrix: &Matrix, acts: &ActRows<'_>, out: &mut [f32]) {
        let (job, turn) = (self.job, &self.turn);
        let run = job.weights.tiles(matrix);
        let mut x = turn.part(&job.x);
        product(
            job.kernels,
            turn,
            &run,
            acts,
            out,
            job.config.dim,
            |row, columns, y| {
                y.each(row, 0, x.row(row, columns), |x, y| job.kernels.add(x, y));
            },
        );
    }

    /// Last norm and output matrix, for the rows whose logits are wanted.
    pub(super) fn project_head(&self) {
        let (job, turn) = (self.job, &self.turn);
        let matrix = job.weights.output();
        let scratch = turn.own(&job.scratch);
        let (acts, out, _) = if job.shape.each_norms_head() {
            let norm = job.weights.output_norm();
            self.norm_own(scratch, norm, matrix.is_quantized(), job.index.head_rows[0])
        } else {
            let Scratch { out, head, .. } = scratch;
            (
                job.norm.read(turn, job.shape.n_head_rows),
                &mut out[..],
                &mut head[..],
            )
        };
        let run = job.weights.tiles(matrix);
        let vocab_size = job.config.vocab_size;
        let mut logits = turn.part(&job.logits);
        product(
            job.kernels,
            turn,
            &run,
            &acts,
            out,
            vocab_size,
            |row, columns, y| {
                let first = row * vocab_size + columns.start;
                let logits = logits.row(row, columns);
                y.copy(row, 0, logits);
                if let Some(bad) = logits.iter().position(|y| !y.is_finite()) {
                    job.not_finite.fetch_min(first + bad, Ordering::Relaxed);
                }
            },
        );
    }
}
