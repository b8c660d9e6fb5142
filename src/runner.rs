//! The source of a conversion, run by the one forward pass.

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path, sync::Arc};

use chaski_convert::{LOGIT_ROWS, ModelRunner, Products, RunnerError};
use chaski_kernels_simd::Kernels;
use chaski_models::{
    Backend, Row, TokenId,
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
    eval::Expected,
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

/// Rows of a pass of several texts.
const PASS_ROWS: usize = 512;

/// What looks on while texts are read.
type Observer<'a> = &'a mut dyn FnMut(usize, Observed<'_>);

impl CpuRunner {
    fn open(&self, file: Vec<u8>) -> Result<Arc<Model>, RunnerError> {
        let options = ModelOptions {
            kernels: Some(self.products.kernels),
            ..ModelOptions::default()
        };
        let container = Container::from_bytes(file)?;
        let model = Model::from_container(container, Path::new("the source's layer"), &options)?;
        Ok(Arc::new(model))
    }

    fn limits(&self, rows: usize, n_seqs: usize, context_len: usize) -> PassLimits {
        PassLimits {
            rows,
            n_seqs,
            context_len,
            threads: self.threads,
            kv_type: KvType::F32,
        }
    }
}

impl ModelRunner for CpuRunner {
    fn observe(
        &mut self,
        file: Vec<u8>,
        texts: &[usize],
        head: bool,
        observer: Observer<'_>,
    ) -> Result<Vec<f32>, RunnerError> {
        let model = self.open(file)?;
        let config = model.config();
        let rows = texts.iter().copied().max().unwrap_or(1);
        let mut backend = CpuBackend::new(&model, &self.limits(rows, 1, rows))?;
        let mut logits = vec![0.0; if head { rows * config.vocab_size } else { 0 }];
        let mut hidden = Vec::with_capacity(texts.iter().sum::<usize>() * config.dim);
        let mut next = 0;
        for (text, &len) in texts.iter().enumerate() {
            let rows: Vec<Row> = rows_of_text(0, next, len, head).collect();
            next += len;
            backend.truncate(0, 0);
            // Copied, since the other threads wait meanwhile and the observer computes.
            let mut seen: Vec<(Site, usize, usize, Vec<f32>)> = Vec::new();
            let n_logits = if head { len * config.vocab_size } else { 0 };
            let ran = backend.forward_observed(&rows, &mut logits[..n_logits], &mut |now| {
                let values = now.rows().flatten().copied().collect();
                seen.push((now.site, now.layer, now.width, values));
            });
            // Also of a pass that failed: it may tell why.
            for (site, layer, width, values) in seen {
                let n_rows = values.len() / width;
                observer(
                    text,
                    Observed::new(site, layer, n_rows, width, width, &values),
                );
            }
            ran?;
            hidden.extend_from_slice(backend.hidden());
        }
        Ok(hidden)
    }

    fn run(&mut self, file: Vec<u8>, texts: &[usize]) -> Result<Vec<f32>, RunnerError> {
        let model = self.open(file)?;
        let longest = texts.iter().copied().max().unwrap_or(1).max(1);
        // Texts that are read together: no row depends on the others of its pass.
        let n_seqs = (PASS_ROWS / longest).clamp(1, texts.len().max(1));
        let limits = self.limits(n_seqs * longest, n_seqs, longest);
        let mut backend = CpuBackend::new(&model, &limits)?;
        let mut hidden = Vec::with_capacity(texts.iter().sum::<usize>() * model.config().dim);
        let (mut rows, mut next) = (Vec::new(), 0);
        for texts in texts.chunks(n_seqs) {
            rows.clear();
            for (seq, &len) in texts.iter().enumerate() {
                backend.truncate(seq, 0);
                rows.extend(rows_of_text(seq, next, len, false));
                next += len;
            }
            backend.forward(&rows, &mut [])?;
            hidden.extend_from_slice(backend.hidden());
        }
        Ok(hidden)
    }

    fn divergences(
        &mut self,
        heads: Vec<Vec<u8>>,
        reference: &[f32],
        variants: &[(usize, &[f32])],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f64>>, RunnerError> {
        let limits = self.limits(LOGIT_ROWS, 1, 1);
        let mut backends = Vec::with_capacity(heads.len());
        for head in heads {
            backends.push(CpuBackend::new(&self.open(head)?, &limits)?);
        }
        let Some(first) = backends.first() else {
            return Err("no head to compute logits with".into());
        };
        let config = first.model().config();
        let (dim, vocab_size) = (config.dim, config.vocab_size);
        let n_rows = reference.len() / dim;
        let mut sums = vec![0.0; variants.len()];
        let mut expected: Vec<Expected> = Vec::new();
        let mut logits = [(); 2].map(|()| vec![0.0; LOGIT_ROWS.min(n_rows) * vocab_size]);
        let [p, q] = &mut logits;
        let mut done = 0;
        for from in (0..n_rows).step_by(LOGIT_ROWS) {
            let n = LOGIT_ROWS.min(n_rows - from);
            let mut run = |head: usize, hidden: &[f32], logits: &mut [f32]| {
                let backend = &mut backends[head];
                let hidden = &hidden[from * dim..(from + n) * dim];
                backend.hidden_mut(n).copy_from_slice(hidden);
                backend.forward_head(n, &mut logits[..n * vocab_size])
            };
            run(0, reference, p)?;
            let mut used: Vec<Vec<f64>> = expected.drain(..).map(Expected::into_exps).collect();
            used.resize(n, Vec::new());
            let rows = p.par_chunks_exact(vocab_size).zip(used);
            let rows = rows.map(|(logits, exps)| Expected::new(logits, exps));
            expected = self.products.pool.install(|| rows.collect());
            for (&(head, hidden), sum) in variants.iter().zip(&mut sums) {
                run(head, hidden, q)?;
                let rows = expected.par_iter().zip(p.par_chunks_exact(vocab_size));
                let rows = rows.zip(q.par_chunks_exact(vocab_size));
                let rows = rows.map(|((e, p), q)| e.kl_divergence(p, q));
                // Results come in the order of the rows, so the sum is the same for any number of threads.
                let found: Vec<f64> = self.products.pool.install(|| rows.collect());
                found.into_iter().for_each(|kld| *sum += kld);
                done += n;
                if progress(done).is_break() {
                    return Ok(None);
                }
            }
        }
        let n_rows = n_rows.max(1) as f64;
        Ok(Some(sums.into_iter().map(|sum| sum / n_rows).collect()))
    }

    fn products(&self) -> Arc<dyn Products> {
        Arc::<CpuProducts>::clone(&self.products)
    }
}

/// The rows of a text of `len` tokens as sequence `seq`; its first token has the number `next`.
fn rows_of_text(seq: usize, next: usize, len: usize, logits: bool) -> impl Iterator<Item = Row> {
    (0..len).map(move |pos| Row {
        seq,
        pos,
        token: TokenId((next + pos) as u32),
        logits,
    })
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
    use chaski_convert::{ConvertOptions, Recipe, Silent};
    use chaski_models::testing::{CheckpointOptions, Rng, Variant, write_checkpoint};

    use super::*;
    use crate::eval::Position;

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

    /// A whole tiny model in exact types.
    fn tiny() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let options = CheckpointOptions {
            tokenizer: false,
            ..CheckpointOptions::default()
        };
        write_checkpoint(dir.path(), Variant::LlamaUntied, &options).unwrap();
        let source = chaski_convert::source::open(dir.path()).unwrap();
        let mut options = ConvertOptions::new(Recipe::named("f32").unwrap());
        options.allow_missing_tokenizer = true;
        let path = dir.path().join("m.chaski");
        chaski_convert::convert(&*source, &path, &options, &Silent).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn texts_leave_the_same_states_behind_whether_somebody_looks_on_or_not() {
        let file = tiny();
        let texts = [3, 40, 1, 17];
        let mut observed = CpuRunner::new(NonZeroUsize::new(1)).unwrap();
        let mut n_seen = 0;
        let mut look = |_, _: Observed<'_>| n_seen += 1;
        let want = observed.observe(file.clone(), &texts, false, &mut look);
        let want = want.unwrap();
        assert!(n_seen > 0);
        for threads in [1, 3] {
            let mut runner = CpuRunner::new(NonZeroUsize::new(threads)).unwrap();
            assert_eq!(runner.run(file.clone(), &texts).unwrap(), want);
        }
    }

    #[test]
    fn divergences_are_those_of_the_heads_logits_at_any_number_of_threads() {
        let file = tiny();
        let mut rng = Rng::new(5);
        let model = CpuRunner::new(None).unwrap().open(file.clone()).unwrap();
        let config = model.config();
        // More rows than are computed at once.
        let n = LOGIT_ROWS + 3;
        let mut draw = || -> Vec<f32> {
            let numbers = 0..n * config.dim;
            numbers.map(|_| rng.normal() as f32).collect()
        };
        let (reference, other) = (draw(), draw());
        let limits = PassLimits {
            rows: n,
            n_seqs: 1,
            context_len: 1,
            threads: 1,
            kv_type: KvType::F32,
        };
        let mut backend = CpuBackend::new(&model, &limits).unwrap();
        let mut logits = |hidden: &[f32]| {
            let mut logits = vec![0.0; n * config.vocab_size];
            backend.hidden_mut(n).copy_from_slice(hidden);
            backend.forward_head(n, &mut logits).unwrap();
            logits
        };
        let (p, q) = (logits(&reference), logits(&other));
        let rows = p.chunks(config.vocab_size).zip(q.chunks(config.vocab_size));
        let klds =
            rows.map(|(p, q)| Position::score(p, q, TokenId(0), &mut Vec::new()).kl_divergence);
        let want = klds.sum::<f64>() / n as f64;
        assert!(want > 1e-3, "{want}");
        let variants = [(1, &reference[..]), (0, &other[..]), (1, &other[..])];
        for threads in [1, 3] {
            let mut runner = CpuRunner::new(NonZeroUsize::new(threads)).unwrap();
            let mut told = Vec::new();
            let mut go_on = |done| {
                told.push(done);
                ControlFlow::Continue(())
            };
            let heads = vec![file.clone(), file.clone()];
            let got = runner.divergences(heads, &reference, &variants, &mut go_on);
            assert_eq!(got.unwrap(), Some(vec![0.0, want, want]));
            assert_eq!(told.last(), Some(&(3 * n)));
            let heads = vec![file.clone(), file.clone()];
            let stop = &mut |_| ControlFlow::Break(());
            let stopped = runner.divergences(heads, &reference, &variants, stop);
            assert_eq!(stopped.unwrap(), None);
        }
        let mut runner = CpuRunner::new(None).unwrap();
        let none = runner.divergences(Vec::new(), &[], &[], &mut |_| ControlFlow::Continue(()));
        assert!(none.is_err());
    }
}
