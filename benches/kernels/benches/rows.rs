//! What is done to rows of activations between the matrices; the throughput is of the bytes read.
#![allow(missing_docs)] // what criterion's macros make

use std::{hint::black_box, time::Duration};

use chaski_kernels_simd::{Kernels, testing::Rng};
use chaski_quant::{Acts, BLOCK};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};

/// Widths of the residual stream and of the feed-forward networks.
const WIDTHS: [(&str, usize); 4] = [
    ("smollm2-dim", 576),
    ("1b-dim", 2048),
    ("8b-dim", 4096),
    ("8b-ffn", 14_336),
];

/// Runs `call` for every level and width; it gets the kernels, two inputs and an output.
fn each(
    c: &mut Criterion,
    operation: &str,
    inputs: usize,
    mut call: impl FnMut(&Kernels, &[f32], &[f32], &mut [f32]),
) {
    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group(format!("{operation}/f32"));
    group
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20);
    for (name, n) in WIDTHS {
        let mut rng = Rng::new(1);
        let (a, b) = (&rng.floats(n, 4.0)[..], &rng.floats(n, 4.0)[..]);
        let mut out = vec![0.0; n];
        group.throughput(Throughput::Bytes((inputs * n * size_of::<f32>()) as u64));
        for kernels in Kernels::available() {
            if kernels.name() == "scalar" {
                continue;
            }
            group.bench_function(BenchmarkId::new(kernels.name(), name), |bench| {
                bench.iter(|| call(kernels, black_box(a), black_box(b), &mut out));
            });
        }
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    each(c, "rms_norm", 2, |k, x, weight, out| {
        k.rms_norm(x, weight, 1e-5, out);
    });
    each(c, "swiglu", 2, |k, gate, up, out| k.swiglu(gate, up, out));
    each(c, "add", 2, |k, x, _, out| k.add(out, x));
    each(c, "rope", 1, |k, x, angles, out| {
        // Heads of 64 elements, of one position.
        out.copy_from_slice(x);
        let (cos, sin) = (&angles[..32], &angles[32..64]);
        out.chunks_exact_mut(64)
            .for_each(|head| k.rope(head, cos, sin));
    });
    // All widths are whole blocks.
    let mut acts: Vec<Acts> = WIDTHS.map(|(_, n)| Acts::new(1, n / BLOCK)).into();
    each(c, "quantize_row", 1, |k, x, _, _| {
        let acts = acts
            .iter_mut()
            .find(|a| a.rows(1).floats(0).len() == x.len());
        if let Some(acts) = acts {
            acts.floats_mut(0).copy_from_slice(x);
            k.quantize_row(acts.row_mut(0));
        }
    });
}

criterion_group!(benches, rows);
criterion_main!(benches);
