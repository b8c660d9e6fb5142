//! Queries and one tile of 64 positions: bytes of keys and values that are read.
#![allow(missing_docs)] // what criterion's macros make

use std::{hint::black_box, time::Duration};

use chaski_kernels_simd::{Kernels, testing::Rng};
use chaski_quant::scalar::attention::{KV_TILE, KvTile, KvType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Queries that share a KV head: one row of the 1B (4 of 8 heads each) or the 8B, one of SmolLM2, and
/// a block of 16 rows of a prompt.
const QUERIES: [(&str, usize, usize); 3] = [
    ("1b-decode", 4, 64),
    ("smollm2-decode", 3, 64),
    ("8b-prefill16", 64, 128),
];

fn attend(c: &mut Criterion) {
    let mut rng = Rng::new(3);
    let mut floats = |n: usize| rng.floats(n, 0.5);
    for (kv_type, type_name) in [
        (KvType::F32, "f32"),
        (KvType::F16, "f16"),
        (KvType::Q8, "q8"),
    ] {
        let mut group = c.benchmark_group(format!("attend_tile/{type_name}"));
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .sample_size(20);
        for (name, n, head_dim) in QUERIES {
            let q = floats(n * head_dim);
            let n_bytes = kv_type.part_bytes(head_dim);
            let (mut keys, mut values) = (vec![0; n_bytes], vec![0; n_bytes]);
            for pos in 0..KV_TILE {
                let best = Kernels::best();
                best.store_key(kv_type, &mut keys, pos, &floats(head_dim));
                best.store_value(kv_type, &mut values, pos, &floats(head_dim));
            }
            let ranges = vec![[0, KV_TILE as u8]; n];
            let mut states = vec![0.0; n * (head_dim + 2)];
            group.throughput(Throughput::Bytes(2 * n_bytes as u64));
            for kernels in Kernels::available() {
                if kernels.name() == "scalar" {
                    continue;
                }
                group.bench_function(BenchmarkId::new(kernels.name(), name), |b| {
                    let tile = KvTile {
                        kv_type,
                        head_dim,
                        keys: &keys,
                        values: &values,
                        ahead: &[],
                    };
                    b.iter(|| {
                        kernels.attend_tile(
                            black_box(&tile),
                            black_box(&q),
                            &ranges,
                            0.125,
                            &mut states,
                        );
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, attend);
criterion_main!(benches);
