//! From the raw rows of a chunk to the bytes of its tiles.

use chaski_quant::{
    QuantType, TILE_ROWS,
    quantize::{Feedback, QuantizeError, Quantizer, TileStats},
};
use rayon::prelude::*;

use super::schedule::{Chunk, Segment, Shape, Work, stored_row};
use crate::{
    error::ConvertError,
    plan::PlannedTensor,
    source::{RowOrder, Source},
};

/// Quantises chunks on the threads of one pool.
pub(crate) struct Tiler<'a> {
    source: &'a dyn Source,
    tensors: &'a [PlannedTensor],
    work: &'a [Work],
    quantizers: [Quantizer; QuantType::ALL.len()],
    pool: &'a rayon::ThreadPool,
    feedback: Option<&'a Feedback>,
}

/// One tile, or one vector.
struct Job<'a> {
    tensor: usize,
    /// Rows of the model.
    rows: std::ops::Range<usize>,
    /// The raw bytes of the segment's rows, and the first of these rows.
    raw: &'a [u8],
    first_row: usize,
    out: &'a mut [u8],
}

impl<'a> Tiler<'a> {
    pub(crate) fn new(
        source: &'a dyn Source,
        tensors: &'a [PlannedTensor],
        work: &'a [Work],
        pool: &'a rayon::ThreadPool,
    ) -> Self {
        Self {
            source,
            tensors,
            work,
            quantizers: QuantType::ALL.map(Quantizer::new),
            pool,
            feedback: None,
        }
    }

    /// The same with feedback for all matrices.
    pub(crate) fn with_feedback(self, feedback: &'a Feedback) -> Self {
        let feedback = Some(feedback);
        Self { feedback, ..self }
    }

    /// Quantises `chunk`, whose rows are `raw`, to `out`, in the order of the file; adds to the
    /// tensors' `stats` in that order, too.
    pub(crate) fn run(
        &self,
        chunk: &Chunk,
        raw: &[u8],
        out: &mut Vec<u8>,
        stats: &mut [TileStats],
    ) -> Result<(), ConvertError> {
        out.clear();
        out.resize(chunk.iter().map(|s| segment_bytes(self.work, s)).sum(), 0);
        let jobs = self.jobs(chunk, raw, out);
        let tensors: Vec<_> = jobs.iter().map(|job| job.tensor).collect();
        let results: Vec<_> = self.pool.install(|| {
            jobs.into_par_iter()
                .map_init(Vec::new, |scratch, job| self.job(job, scratch))
                .collect()
        });
        // In the file's order, so that neither sums nor the error that is told depend on the
        // threads.
        for (tensor, result) in tensors.into_iter().zip(results) {
            stats[tensor].merge(&result?);
        }
        Ok(())
    }

    fn jobs<'b>(&self, chunk: &Chunk, mut raw: &'b [u8], mut out: &'b mut [u8]) -> Vec<Job<'b>> {
        let mut jobs = Vec::new();
        let mut job = |segment: &Segment, raw: &'b [u8], tile: usize| {
            let (rows, bytes) = match self.work[segment.tensor].shape {
                Shape::Matrix { layout, .. } => (layout.tile_rows(tile), layout.tile_bytes()),
                Shape::Vector { len } => (0..1, 4 * len),
            };
            let (this, rest) = std::mem::take(&mut out).split_at_mut(bytes);
            out = rest;
            let (tensor, first_row) = (segment.tensor, segment.rows.start);
            jobs.push(Job {
                tensor,
                rows,
                raw,
                first_row,
                out: this,
            });
        };
        let mut segments = chunk.iter();
        while let Some(segment) = segments.next() {
            let mut take = |s: &Segment| {
                let (this, rest) = raw.split_at(s.rows.len() * self.work[s.tensor].row_bytes);
                raw = rest;
                this
            };
            let first = take(segment);
            let pair = if segment.paired {
                segments.next().map(|s| (s, take(s)))
            } else {
                None
            };
            for tile in segment.tiles.clone() {
                job(segment, first, tile);
                if let Some((second, raw)) = pair {
                    job(second, raw, tile);
                }
            }
        }
        jobs
    }

    fn job(&self, job: Job<'_>, scratch: &mut Vec<f32>) -> Result<TileStats, ConvertError> {
        let Job {
            tensor: index,
            rows,
            raw,
            first_row,
            out,
        } = job;
        let (tensor, work) = (&self.tensors[index], &self.work[index]);
        match work.shape {
            Shape::Vector { len } => {
                scratch.resize(len, 0.0);
                self.source.decode(tensor.source, 0, raw, scratch)?;
                // The elements of a bias are ordered as the rows of its matrix.
                let stored = |i| scratch[stored_row(work.order, i)];
                let mut stats = TileStats {
                    n: len as u64,
                    ..TileStats::default()
                };
                for (i, bytes) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let x: f32 = stored(i);
                    if !x.is_finite() {
                        return Err(self.not_finite(index, 0, stored_row(work.order, i), x));
                    }
                    stats.sum_sq += f64::from(x) * f64::from(x);
                    *bytes = x.to_le_bytes();
                }
                Ok(stats)
            }
            Shape::Matrix { layout, .. } => {
                let cols = layout.cols();
                scratch.resize(rows.len() * cols, 0.0);
                let raw_of = |row: usize, n: usize| {
                    let start = (row - first_row) * work.row_bytes;
                    &raw[start..start + n * work.row_bytes]
                };
                if work.order == RowOrder::AsStored {
                    let raw = raw_of(rows.start, rows.len());
                    self.source
                        .decode(tensor.source, rows.start, raw, scratch)?;
                } else {
                    for (row, floats) in rows.clone().zip(scratch.chunks_exact_mut(cols)) {
                        let stored = stored_row(work.order, row);
                        let raw = raw_of(stored, 1);
                        self.source.decode(tensor.source, stored, raw, floats)?;
                    }
                }
                let mut views = [&[][..]; TILE_ROWS];
                for (view, row) in views.iter_mut().zip(scratch.chunks_exact(cols)) {
                    *view = row;
                }
                let quantizer = &self.quantizers[usize::from(tensor.qtype.id())];
                let views = &views[..rows.len()];
                match self.feedback {
                    None => quantizer.quantize_tile(views, out),
                    Some(feedback) => quantizer
                        .quantize_tile_with_feedback(views, feedback, out)
                        .map(|(stats, _)| stats),
                }
                .map_err(|cause| match cause {
                    QuantizeError::NotFinite { row, col, value } => {
                        let row = stored_row(work.order, rows.start + row);
                        self.not_finite(index, row, col, value)
                    }
                    cause => ConvertError::Quantize {
                        tensor: tensor.source_name.clone(),
                        cause,
                    },
                })
            }
        }
    }

    fn not_finite(&self, tensor: usize, row: usize, col: usize, value: f32) -> ConvertError {
        let tensor = self.tensors[tensor].source_name.clone();
        ConvertError::NotFinite {
            tensor,
            row,
            col,
            value,
        }
    }
}

/// Bytes of a segment in the file.
pub(crate) fn segment_bytes(work: &[Work], segment: &Segment) -> usize {
    match work[segment.tensor].shape {
        Shape::Matrix { layout, .. } => segment.tiles.len() * layout.tile_bytes(),
        Shape::Vector { len } => 4 * len,
    }
}
