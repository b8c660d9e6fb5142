//! Keys, values and attention.

use chaski_quant::scalar::attention::{self, KV_TILE, KvTile, KvType};
use proptest::prelude::*;

use super::{assert_same, random_cases};
use crate::{Kernels, testing::Rng};

const KV_TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];
const HEAD_DIMS: [usize; 9] = [64, 80, 128, 16, 20, 1, 7, 8, 96];

/// A part of 64 positions, stored by the oracle; positions out of `valid` hold NaN.
fn part(
    rng: &mut Rng,
    kv_type: KvType,
    head_dim: usize,
    valid: [usize; 2],
    key: bool,
) -> Box<[u8]> {
    let mut part = vec![0xff; kv_type.part_bytes(head_dim)];
    for pos in valid[0]..valid[1] {
        let x = rng.floats(head_dim, 2.0);
        if key {
            attention::store_key(kv_type, &mut part, pos, &x);
        } else {
            attention::store_value(kv_type, &mut part, pos, &x);
        }
    }
    part.into_boxed_slice()
}

/// States that hold something, or nothing.
fn states(rng: &mut Rng, n: usize, head_dim: usize) -> Vec<f32> {
    let mut states = rng.floats(n * (head_dim + 2), 1.0);
    for state in states.chunks_exact_mut(head_dim + 2) {
        match rng.below(3) {
            0 => attention::clear(state),
            i => (state[head_dim], state[head_dim + 1]) = (40.0 * (i as f32 - 1.5), 3.25),
        }
    }
    states
}

fn check(kv: &KvTile<'_>, q: &[f32], ranges: &[[u8; 2]], scale: f32, before: &[f32], what: &str) {
    let mut want = before.to_vec();
    let queries = q
        .chunks_exact(kv.head_dim)
        .zip(want.chunks_exact_mut(kv.head_dim + 2));
    for (range, (q, state)) in ranges.iter().zip(queries) {
        attention::attend_tile(kv, q, range[0].into(), range[1].into(), scale, state);
    }
    for kernels in Kernels::available() {
        let mut got = before.to_vec();
        kernels.attend_tile(kv, q, ranges, scale, &mut got);
        let (name, t, n) = (kernels.name(), kv.kv_type, kv.head_dim);
        // An empty state's maximum is -infinity in both.
        for (got, want) in got.iter().zip(&want).filter(|(_, want)| want.is_infinite()) {
            assert_eq!(got, want, "{name}: {t:?}, head of {n}, {ranges:?}, {what}");
        }
        assert_same(
            &got,
            &want,
            format_args!("{name}: {t:?}, head of {n}, {ranges:?}, {what}"),
        );
    }
}

#[test]
fn one_query_over_every_kind_of_range() {
    let ranges = [
        [0, 64],
        [0, 1],
        [63, 64],
        [0, 17],
        [5, 41],
        [16, 32],
        [15, 33],
        [48, 64],
        [7, 8],
        [9, 9],
        [40, 3],
    ];
    for kv_type in KV_TYPES {
        for head_dim in HEAD_DIMS {
            for range in ranges {
                let mut rng = Rng::new(head_dim as u64);
                let valid = [range[0].into(), range[1].into()];
                let keys = part(&mut rng, kv_type, head_dim, valid, true);
                let values = part(&mut rng, kv_type, head_dim, valid, false);
                let kv = KvTile {
                    kv_type,
                    head_dim,
                    keys: &keys,
                    values: &values,
                    ahead: &[],
                };
                let (q, before) = (rng.floats(head_dim, 2.0), states(&mut rng, 1, head_dim));
                check(&kv, &q, &[range], 0.125, &before, "stale positions are NaN");
            }
        }
    }
}

#[test]
fn extreme_scores_give_the_oracles_bits() {
    for kv_type in KV_TYPES {
        for (q_limit, scale) in [(0.0, 1.0), (1e-30, 1e-10), (200.0, 1.0), (1e4, -3.0)] {
            let mut rng = Rng::new(5);
            let keys = part(&mut rng, kv_type, 64, [0, 64], true);
            let values = part(&mut rng, kv_type, 64, [0, 64], false);
            let kv = KvTile {
                kv_type,
                head_dim: 64,
                keys: &keys,
                values: &values,
                ahead: &[],
            };
            let (q, before) = (rng.floats(3 * 64, q_limit), states(&mut rng, 3, 64));
            let ranges = [[0, 64], [3, 20], [0, 2]];
            check(
                &kv,
                &q,
                &ranges,
                scale,
                &before,
                &format!("q up to {q_limit:e}"),
            );
        }
    }
}

#[test]
fn a_maximum_of_zero_is_positive_zero() {
    let keys: Vec<u8> = vec![0; KvType::F32.part_bytes(8)];
    let kv = KvTile {
        kv_type: KvType::F32,
        head_dim: 8,
        keys: &keys,
        values: &keys,
        ahead: &[],
    };
    for scale in [-1.0, 1.0] {
        for kernels in Kernels::available() {
            let mut state = [0.0; 10];
            attention::clear(&mut state);
            kernels.attend_tile(&kv, &[1.0; 8], &[[0, 64]], scale, &mut state);
            assert_eq!(state[8].to_bits(), 0, "{}: scale {scale}", kernels.name());
        }
    }
}

#[test]
fn stored_keys_and_values_are_the_oracles() {
    for kv_type in KV_TYPES {
        for head_dim in HEAD_DIMS {
            for limit in [0.0, 1e-40, 1e-7, 3e-5, 1.0, 65504.0, 65520.0, 1e6, 3e38] {
                for pos in [0, 1, 15, 16, 47, 63] {
                    let mut rng = Rng::new(pos as u64);
                    let x = rng.floats(head_dim, limit);
                    let blank = vec![0x5a; kv_type.part_bytes(head_dim)];
                    let (mut key, mut value) = (blank.clone(), blank.clone());
                    attention::store_key(kv_type, &mut key, pos, &x);
                    attention::store_value(kv_type, &mut value, pos, &x);
                    for kernels in Kernels::available() {
                        let what = format!(
                            "{}: {kv_type:?}, head of {head_dim} up to {limit:e} at {pos}",
                            kernels.name()
                        );
                        let (mut k, mut v) = (blank.clone(), blank.clone());
                        kernels.store_key(kv_type, &mut k, pos, &x);
                        kernels.store_value(kv_type, &mut v, pos, &x);
                        assert_eq!(k, key, "key, {what}");
                        assert_eq!(v, value, "value, {what}");
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_beyond_f16_saturate() {
    let x = [
        1e9,
        -1e9,
        65504.0,
        65519.9,
        -65520.0,
        65536.0,
        f32::MAX,
        f32::MIN,
        1.0,
    ];
    let want = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 0.0].map(|s: f32| s * 65504.0);
    for kernels in Kernels::available() {
        let mut part = vec![0; KvType::F16.part_bytes(9)];
        kernels.store_value(KvType::F16, &mut part, 2, &x);
        for c in 0..8 {
            let at = 2 * (2 * 9 + c);
            let got = half::f16::from_le_bytes([part[at], part[at + 1]]).to_f32();
            assert_eq!(got, want[c], "{}: {}", kernels.name(), x[c]);
        }
    }
}

#[test]
fn merged_and_finished_states_are_the_oracles() {
    for head_dim in HEAD_DIMS {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let two = states(&mut rng, 2, head_dim);
            let (into, from) = two.split_at(head_dim + 2);
            let mut want = into.to_vec();
            attention::merge(&mut want, from);
            let mut want_out = vec![f32::NAN; head_dim];
            let full = want[head_dim + 1] != 0.0;
            if full {
                attention::finish(&want, &mut want_out);
            }
            for kernels in Kernels::available() {
                let what = format!("{}: head of {head_dim}, seed {seed}", kernels.name());
                let mut got = into.to_vec();
                kernels.merge(&mut got, from);
                assert_same(&got, &want, &what);
                if full {
                    let mut out = vec![f32::NAN; head_dim];
                    kernels.finish(&got, &mut out);
                    assert_same(&out, &want_out, &what);
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_the_output_of_who_attends_to_it_only() {
    for kernels in Kernels::available() {
        for kv_type in KV_TYPES {
            let mut rng = Rng::new(1);
            let (keys, values) = (
                part(&mut rng, kv_type, 24, [0, 64], true),
                part(&mut rng, kv_type, 24, [0, 64], false),
            );
            let (mut bad_keys, mut bad_values) = (keys.clone(), values.clone());
            attention::store_key(kv_type, &mut bad_keys, 30, &[f32::NAN; 24]);
            attention::store_value(kv_type, &mut bad_values, 30, &[f32::NAN; 24]);
            for (keys, values) in [(&bad_keys, &values), (&keys, &bad_values)] {
                let kv = KvTile {
                    kv_type,
                    head_dim: 24,
                    keys,
                    values,
                    ahead: &[],
                };
                let ranges = [[0, 30], [0, 31], [31, 64], [12, 30], [30, 40]];
                let n = ranges.len();
                let (q, mut states) = (rng.floats(n * 24, 1.0), vec![0.0; n * 26]);
                states.chunks_exact_mut(26).for_each(attention::clear);
                kernels.attend_tile(&kv, &q, &ranges, 1.0, &mut states);
                for (state, range) in states.chunks_exact(26).zip(ranges) {
                    let mut out = [0.0; 24];
                    kernels.finish(state, &mut out);
                    let broken = (range[0]..range[1]).contains(&30);
                    let name = kernels.name();
                    assert!(
                        out.iter().all(|v| v.is_nan() == broken),
                        "{name}: {kv_type:?}, {range:?}"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(random_cases(128))]

    #[test]
    fn several_queries_give_the_oracles_bits(
        kv_type in prop::sample::select(&KV_TYPES[..]),
        head_dim in prop::sample::select(&HEAD_DIMS[..]),
        n in 1_usize..10,
        kind in 0..3,
        seed: u64,
    ) {
        let mut rng = Rng::new(seed);
        let keys = part(&mut rng, kv_type, head_dim, [0, 64], true);
        let values = part(&mut rng, kv_type, head_dim, [0, 64], false);
        let kv = KvTile { kv_type, head_dim, keys: &keys, values: &values, ahead: &[] };
        let first = rng.below(64);
        let ranges: Vec<[u8; 2]> = (0..n)
            .map(|i| match kind {
                // Heads of one position, neighbouring positions of a prompt, anything.
                0 => [0, first as u8 + 1],
                1 => [0, (first + i / 2 + 1).min(KV_TILE) as u8],
                _ => [rng.below(64) as u8, rng.below(65) as u8],
            })
            .collect();
        let (q, before) = (rng.floats(n * head_dim, 2.0), states(&mut rng, n, head_dim));
        check(&kv, &q, &ranges, 0.125, &before, &format!("seed {seed}"));
    }
}
