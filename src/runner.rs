//! The source of a conversion, run by the one forward pass.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use chaski_convert::{ModelRunner, Products, RunnerError};
use chaski_kernels_simd::Kernels;
use chaski_models::{
    Row, TokenId,
    forward::{Observed, Site},
};
use chaski_quant::{
    Acts, BLOCK, QuantType, TILE_ROWS, TensorLayout, TileRun, container::Container,
    scalar::attention::KvType,
};
use rayon::prelude::*;

use crate::{
    Model, ModelOptions,
    backend::cpu::{CpuBackend, PassLimits},
};

/// Runs models for [`chaski_convert::convert_with`].
#[derive(Debug)]
pub struct CpuRunner {
    threads: usize,
    products: Arc<CpuProducts>,
}

impl CpuRunner {
    /// Takes so many threads; `None`: as many as this process may use.
    ///
    /// # Errors
    ///
    /// The threads cannot be started, or `CHASKI_SIMD` cannot be followed.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Self, RunnerError> {
        let available = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = threads.map_or_else(available, NonZeroUsize::get);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()?;
        let kernels = Kernels::from_env()?;
        let products = Arc::new(CpuProducts { kernels, pool });
        Ok(Self { threads, products })
    }
}

impl ModelRunner for CpuRunner {
    fn observe(
        &mut self,
        file: Vec<u8>,
        texts: &[usize],
        head: bool,
        observer: &mut dyn FnMut(usize, Observed<'_>),
    ) -> Result<Vec<f32>, RunnerError> {
        let options = ModelOptions {
            kernels: Some(self.products.kernels),
            ..ModelOptions::default()
        };
        let container = Container::from_bytes(file)?;
        let model = Model::from_container(container, Path::new("the source's layer"), &options)?;
        let model = Arc::new(model);
        let config = model.config();
        let rows = texts.iter().copied().max().unwrap_or(1);
        let limits = PassLimits {
            rows,
            n_seqs: 1,
            context_len: rows,
            threads: self.threads,
            kv_type: KvType::F32,
        };
        let mut backend = CpuBackend::new(&model, &limits)?;
        let mut logits = vec![0.0; if head { rows * config.vocab_size } else { 0 }];
        let mut hidden = Vec::with_capacity(texts.iter().sum::<usize>() * config.dim);
        let mut next = 0;
        for (text, &len) in texts.iter().enumerate() {
            let rows: Vec<Row> = (0..len)
                .map(|pos| Row {
                    seq: 0,
                    pos,
                    token: TokenId((next + pos) as u32),
                    logits: head,
                })
                .collect();
            next += len;
            backend.truncate(0, 0);
            // Copied, since the other threads wait meanwhile and the observer computes.
            let mut seen: Vec<(Site, usize, usize, Vec<f32>)> = Vec::new();
            let n_logits = if head { len * config.vocab_size } else { 0 };
            backend.forward_observed(&rows, &mut logits[..n_logits], &mut |now| {
                let values = now.rows().flatten().copied().collect();
                seen.push((now.site, now.layer, now.width, values));
            })?;
            hidden.extend_from_slice(backend.hidden());
            for (site, layer, width, values) in seen {
                let n_rows = values.len() / width;
                observer(
                    text,
                    Observed::new(site, layer, n_rows, width, width, &values),
                );
            }
        }
        Ok(hidden)
    }

    fn products(&self) -> Arc<dyn Products> {
        Arc::<CpuProducts>::clone(&self.products)
    }
}

/// Products of columns as a matrix in tiles times activations: the columns are the rows of both.
#[derive(Debug)]
struct CpuProducts {
    kernels: &'static Kernels,
    pool: rayon::ThreadPool,
}

/// Columns that are multiplied with all tiles at a time.
const STRIP: usize = 128;
/// Tiles of one call of the kernel.
const TILES: usize = 8;

impl Products for CpuProducts {
    fn add(&self, rows: &[f32], width: usize, scale: f64, sum: &mut [f64], stride: usize) {
        let n = rows.len() / width;
        if n == 0 {
            return;
        }
        let layout = TensorLayout::new(QuantType::F32, width, n);
        let layout = layout.unwrap_or_else(|e| panic!("products of {n} x {width}: {e}"));
        let tile_bytes = layout.tile_bytes();
        let mut tiles = vec![0; layout.bytes()];
        self.pool.install(|| {
            tiles
                .par_chunks_exact_mut(tile_bytes)
                .enumerate()
                .for_each(|(tile, bytes)| {
                    let columns = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(width);
                    for (k, row) in rows.chunks_exact(width).enumerate() {
                        let out = &mut bytes[4 * TILE_ROWS * k..];
                        for (x, out) in row[columns.clone()].iter().zip(out.as_chunks_mut().0) {
                            *out = x.to_le_bytes();
                        }
                    }
                });
            let run = TileRun::new(&layout, &tiles, layout.n_tiles(), tile_bytes);
            let n_blocks = n.div_ceil(BLOCK);
            sum[..(width - 1) * stride + width]
                .par_chunks_mut(STRIP * stride)
                .enumerate()
                .for_each_init(
                    || (Acts::new(STRIP, n_blocks), Vec::new()),
                    |(acts, out), (strip, sum)| {
                        let first = strip * STRIP;
                        let len = STRIP.min(width - first);
                        for i in 0..len {
                            let floats = acts.floats_mut(i);
                            for (x, row) in floats.iter_mut().zip(rows.chunks_exact(width)) {
                                *x = row[first + i];
                            }
                        }
                        let acts = acts.rows(len);
                        // Tiles that end left of the strip have nothing of the upper triangle.
                        for tile in (first / TILE_ROWS..run.n_tiles()).step_by(TILES) {
                            let run = run.slice(tile..(tile + TILES).min(run.n_tiles()));
                            out.clear();
                            out.resize(run.n_tiles() * len * TILE_ROWS, 0.0);
                            self.kernels.matmul(&run, &acts, out);
                            for (t, out) in out.chunks_exact(len * TILE_ROWS).enumerate() {
                                let column = (tile + t) * TILE_ROWS;
                                for (i, out) in out.chunks_exact(TILE_ROWS).enumerate() {
                                    let last = (column + TILE_ROWS).min(width);
                                    let sum = &mut sum[i * stride + column..i * stride + last];
                                    for (sum, p) in sum.iter_mut().zip(out) {
                                        *sum += scale * f64::from(*p);
                                    }
                                }
                            }
                        }
                    },
                );
        });
    }
}

#[cfg(test)]
mod tests {
    use chaski_models::testing::Rng;

    use super::*;

    /// As the trait says it, loop by loop.
    fn plain(rows: &[f32], width: usize, scale: f64, sum: &mut [f64], stride: usize) {
        for i in 0..width {
            for j in i..width {
                let fold = |p: f32, row: &[f32]| row[i].mul_add(row[j], p);
                let p = rows.chunks_exact(width).fold(0.0, fold);
                sum[i * stride + j] += scale * f64::from(p);
            }
        }
    }

    #[test]
    fn products_are_those_of_plain_loops_for_any_number_of_threads() {
        let mut rng = Rng::new(3);
        for (n, width, stride) in [(1, 1, 1), (5, 33, 40), (70, 200, 200), (3, 130, 131)] {
            let rows: Vec<f32> = (0..n * width).map(|_| rng.normal() as f32).collect();
            let mut want = vec![0.5; (width - 1) * stride + width];
            plain(&rows, width, -0.25, &mut want, stride);
            for threads in [1, 3] {
                let runner = CpuRunner::new(NonZeroUsize::new(threads)).unwrap();
                let mut got = vec![0.5; want.len()];
                runner.products().add(&rows, width, -0.25, &mut got, stride);
                for i in 0..width {
                    let upper = i * stride + i..i * stride + width;
                    assert_eq!(got[upper.clone()], want[upper], "{n} x {width}, row {i}");
                }
            }
        }
    }
}
