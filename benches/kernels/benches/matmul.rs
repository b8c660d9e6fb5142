//! Matrices times 1 row (decode), few rows (speculation, small batches) and many (prefill).
//!
//! With one row the throughput is of the bytes of weights that are read, which is what bounds it;
//! with more the same weights serve all rows, and it is of products.
#![allow(missing_docs)] // what criterion's macros make

use std::{hint::black_box, time::Duration};

use chaski_bench_kernels::{Matrix, SHAPES, Shape};
use chaski_kernels_simd::{
    Kernels,
    testing::{Fill, Rng, acts},
};
use chaski_quant::{BLOCK, QuantType, TILE_ROWS};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn matmul(c: &mut Criterion) {
    for rows in [1, 4, 8, 128] {
        for qtype in QuantType::ALL {
            let mut group = c.benchmark_group(format!("matmul{rows}/{qtype}"));
            group
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_secs(1))
                .sample_size(20);
            for shape in SHAPES {
                // Prefill walks a matrix panel by panel: past the caches nothing changes.
                if rows > 1 && shape.rows > 10_000 {
                    continue;
                }
                let w = Matrix::new(qtype, shape);
                let Shape { name, cols, .. } = shape;
                let x = acts(&mut Rng::new(2), rows, cols.div_ceil(BLOCK), Fill::Random);
                let mut out = vec![0.0; w.tiles().n_tiles() * TILE_ROWS * rows];
                group.throughput(if rows == 1 {
                    Throughput::Bytes(w.len() as u64)
                } else {
                    Throughput::Elements((shape.rows * cols * rows) as u64)
                });
                for kernels in Kernels::available() {
                    // The plain level is the definition, not a way to run anything.
                    if kernels.name() == "scalar" {
                        continue;
                    }
                    group.bench_function(BenchmarkId::new(kernels.name(), name), |b| {
                        let (w, x) = (w.tiles(), x.rows(rows));
                        b.iter(|| kernels.matmul(black_box(&w), black_box(&x), &mut out));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
