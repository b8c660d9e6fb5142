//! The oracle defines every result; these tests hold it against the mathematics that it stands for,
//! computed in f64, within bounds derived from the number of roundings on the way.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use chaski_quant::{
    Acts, BLOCK, QuantType, TILE_ROWS, TileRun,
    scalar::{
        add, attention,
        attention::{KV_TILE, KvTile, KvType},
        dequantize_tile, exp, matmul, quantize_block, quantize_row, rms_norm, rope, row_dot, sum16,
        swiglu, tree16,
    },
    tile,
};
use support::{Rng, quantize, tile_layout};

/// Half a unit in the last place of 1: the relative error of one rounding.
const U: f64 = 1.0 / (1 << 24) as f64;
/// The relative error of `exp` (its own test measures it).
const EXP: f64 = 1.2e-7;

fn f64s(x: &[f32]) -> impl Iterator<Item = f64> {
    x.iter().map(|x| f64::from(*x))
}

/// Activation rows of `cols` columns, quantised too.
fn activations(rng: &mut Rng, n_rows: usize, cols: usize) -> Acts {
    let mut acts = Acts::new(n_rows, cols.div_ceil(BLOCK));
    for row in 0..n_rows {
        let values = rng.normals(cols, 1.5);
        acts.floats_mut(row)[..cols].copy_from_slice(&values);
        quantize_row(&mut acts.row_mut(row));
    }
    acts
}

#[test]
fn matmul_is_the_sum_of_products() {
    let mut rng = Rng::new(11);
    for qtype in QuantType::ALL {
        for (n_rows, cols) in [(16, 32), (5, 200), (16, 1024)] {
            let weights = rng.normals(n_rows * cols, 0.3);
            let layout = tile_layout(qtype, n_rows, cols);
            let (bytes, _) = quantize(qtype, &weights, cols);
            let decoded = dequantize_tile(&layout, 0, &bytes);
            let acts = activations(&mut rng, 3, cols);
            let rows = acts.rows(3);
            let mut out = vec![f32::NAN; 3 * TILE_ROWS];
            let run = TileRun::new(&layout, &bytes, 1, bytes.len());
            matmul(&run, &rows, &mut out);
            for (i, out) in out.iter().enumerate() {
                let (t, row) = (i / TILE_ROWS, i % TILE_ROWS);
                assert_eq!(*out, row_dot(qtype, &bytes, row, &rows, t), "{qtype}");
                if row >= n_rows {
                    assert_eq!(*out, 0.0, "{qtype}: a row of padding");
                    continue;
                }
                let x = |k: usize| {
                    if qtype.is_quantized() {
                        let d = f64::from(rows.scales(t)[k / BLOCK]);
                        f64::from(rows.codes(t)[k]) * d
                    } else {
                        f64::from(rows.floats(t)[k])
                    }
                };
                let products = f64s(&decoded[row * cols..][..cols])
                    .enumerate()
                    .map(|(k, w)| w * x(k));
                let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
                // Quantised: two roundings a term (Q4H has two terms a block), one by the row scale,
                // and one in each decoded weight. Float: one for each column, padding included.
                let n_terms = if qtype.is_quantized() {
                    layout.n_blocks() * tile::scales_per_block(qtype) + 3
                } else {
                    layout.cols_padded()
                };
                let bound = 1.01 * n_terms as f64 * U * size;
                assert!(
                    (f64::from(*out) - sum).abs() <= bound,
                    "{qtype} {n_rows} x {cols}, row {row}: {out}, want {sum} +- {bound:e}"
                );
            }
        }
    }
}

/// Every weight at the end of its range, times every activation at the end of its.
#[test]
fn integer_sums_are_exact_in_f32() {
    let extremes = [
        (QuantType::Q3, 0, -16),
        (QuantType::Q3, 7, 13),
        (QuantType::Q4, 0, -32),
        (QuantType::Q4, 15, 29),
        (QuantType::Q4H, 0, -32),
        (QuantType::Q5, 0, -16),
        (QuantType::Q6, 0, -32),
        (QuantType::Q8, 0x81, -127),
    ];
    for (qtype, code, value) in extremes {
        let layout = tile_layout(qtype, 1, BLOCK);
        let mut bytes = vec![0; layout.tile_bytes()];
        bytes[..4].copy_from_slice(&1.0_f32.to_le_bytes());
        let block = &mut bytes[64..];
        for k in 0..BLOCK {
            tile::set_code(qtype, block, 0, k, code);
        }
        for half in 0..tile::scales_per_block(qtype) {
            block[half * TILE_ROWS] = match qtype {
                QuantType::Q3 | QuantType::Q4 | QuantType::Q4H => tile::q4_scale_byte(1, value > 0),
                _ => 1,
            };
        }
        let mut acts = Acts::new(1, 1);
        acts.floats_mut(0).fill(-127.0);
        quantize_row(&mut acts.row_mut(0));
        let got = row_dot(qtype, &bytes, 0, &acts.rows(1), 0);
        let want: i32 = 32 * value * -127;
        assert!(want.abs() < 1 << 24);
        assert_eq!(got, want as f32, "{qtype}");
    }
}

#[test]
fn activations_are_within_half_a_step() {
    let mut rng = Rng::new(5);
    for scale in [1e-28_f32, 1e-4, 1.0, 3e4, 1e38] {
        for _ in 0..200 {
            let mut x = [0.0; BLOCK];
            x.fill_with(|| rng.normal() / 5.0 * scale);
            let (codes, d, sums) = quantize_block(&x);
            assert!(codes.iter().all(|c| *c >= -127) && d.is_finite());
            for (x, c) in x.iter().zip(codes) {
                // 127 / amax and its product with x are rounded, and so is d.
                let step = f64::from(d) * (0.5 + 127.0 * 3.0 * U);
                let err = (f64::from(*x) - f64::from(c) * f64::from(d)).abs();
                assert!(err <= step, "{x} as {c} x {d}");
            }
            for (half, sum) in codes.chunks(16).zip(sums) {
                assert_eq!(half.iter().map(|c| i16::from(*c)).sum::<i16>(), sum);
            }
            assert!(codes.iter().any(|c| c.abs() == 127));
        }
    }
}

#[test]
fn sums_follow_the_fixed_tree() {
    let mut rng = Rng::new(9);
    for _ in 0..100 {
        let lanes: [f32; 16] = std::array::from_fn(|_| rng.normal());
        let l = |i: usize| lanes[i];
        let four = |i: usize| (l(i) + l(i + 8)) + (l(i + 4) + l(i + 12));
        let want = (four(0) + four(2)) + (four(1) + four(3));
        assert_eq!(tree16(lanes).to_bits(), want.to_bits());
    }
    // Element 16 is added to lane 0, where 1e9 swallows a 1; the tree only sees the sum.
    let mut x = vec![0.0; 40];
    (x[0], x[16], x[8]) = (1.0, 1e9, -1e9);
    assert_eq!(sum16(&x), 0.0);
    (x[0], x[16], x[1], x[8]) = (0.0, 1e9, 1.0, -1e9);
    assert_eq!(sum16(&x), 1.0);
}

#[test]
fn rms_norm_normalizes() {
    let mut rng = Rng::new(13);
    for n in [1, 15, 16, 33, 576, 4096] {
        let (x, w) = (rng.normals(n, 3.0), rng.normals(n, 1.0));
        let mut out = vec![f32::NAN; n];
        rms_norm(&x, &w, 1e-5, &mut out);
        let mean = f64s(&x).map(|x| x * x).sum::<f64>() / n as f64;
        let inverse = 1.0 / (mean + f64::from(1e-5_f32)).sqrt();
        // The sum: one rounding for each element of a lane and four of the tree, halved by the root;
        // then mean, eps, root, reciprocal and two products.
        let bound = ((n as f64 / 16.0).ceil() + 4.0 + 2.0) / 2.0 * U + 5.0 * U;
        for i in 0..n {
            let want = f64::from(x[i]) * inverse * f64::from(w[i]);
            let err = (f64::from(out[i]) - want).abs();
            assert!(err <= bound * want.abs(), "{n}: {} want {want}", out[i]);
        }
        // Powers of two change nothing where there is no eps.
        let scaled: Vec<f32> = x.iter().map(|x| x * 1024.0).collect();
        let mut again = vec![f32::NAN; n];
        rms_norm(&x, &w, 0.0, &mut out);
        rms_norm(&scaled, &w, 0.0, &mut again);
        assert_eq!(out, again);
    }
    let mut out = [f32::NAN; 20];
    rms_norm(&[0.0; 20], &[2.0; 20], 1e-6, &mut out);
    assert_eq!(out, [0.0; 20]);
}

#[test]
fn rope_rotates_pairs() {
    let mut rng = Rng::new(17);
    for (n, h) in [(2, 1), (64, 32), (128, 64), (80, 20)] {
        let x = rng.normals(n, 2.0);
        let angles: Vec<f64> = (0..h).map(|i| i as f64 * 0.7 - 3.0).collect();
        let cos: Vec<f32> = angles.iter().map(|a| libm::cos(*a) as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| libm::sin(*a) as f32).collect();
        let mut y = x.clone();
        rope(&mut y, &cos, &sin);
        for i in 0..h {
            let (x0, x1) = (f64::from(x[i]), f64::from(x[i + h]));
            let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
            let want = [x0 * c - x1 * s, x1 * c + x0 * s];
            let bounds = [(x1 * s).abs(), (x0 * s).abs()];
            for (j, (want, product)) in want.into_iter().zip(bounds).enumerate() {
                let err = (f64::from(y[i + j * h]) - want).abs();
                assert!(err <= 1.01 * U * (product + want.abs()), "pair {i} of {n}");
            }
            // The length of the pair stays, up to the roundings and those of cos and sin.
            let length = |a: f32, b: f32| f64::from(a).hypot(f64::from(b));
            let (before, after) = (length(x[i], x[i + h]), length(y[i], y[i + h]));
            assert!(
                (before - after).abs() <= 6.0 * U * before,
                "pair {i} of {n}"
            );
        }
        assert_eq!(y[2 * h..], x[2 * h..], "elements that are not rotated");
        let mut same = x.clone();
        rope(&mut same, &vec![1.0; h], &vec![0.0; h]);
        assert_eq!(same, x);
    }
}

#[test]
fn swiglu_is_silu_times_up() {
    let mut rng = Rng::new(19);
    let gate: Vec<f32> = (-1000..1000)
        .map(|i| i as f32 * 0.1)
        .chain(rng.normals(500, 2.0))
        .collect();
    let up = rng.normals(gate.len(), 1.0);
    let mut out = vec![f32::NAN; gate.len()];
    swiglu(&gate, &up, &mut out);
    for i in 0..gate.len() {
        let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
        let want = g / (1.0 + (-g).exp()) * u;
        let err = (f64::from(out[i]) - want).abs();
        // exp, sum, quotient, product; below -87 the clamp and subnormal results take over, at
        // values that vanish beside anything.
        assert!(
            err <= (EXP + 4.0 * U) * want.abs() + 1e-35,
            "{g}: {} want {want}",
            out[i]
        );
    }
}

#[test]
fn exp_of_what_is_not_positive_is_a_weight() {
    for i in 0..200_000 {
        let x = -(i as f32) * 0.000_5;
        let y = exp(x);
        assert!(y > 0.0 && y <= 1.0, "exp({x}) = {y}");
    }
    assert_eq!(exp(-0.0), 1.0);
}

#[test]
fn add_adds() {
    let mut x = [1.0, -2.5, 16_777_216.0];
    add(&mut x, &[0.5, 2.5, 1.0]);
    assert_eq!(x, [1.5, 0.0, 16_777_216.0]);
}

const HEAD_DIM: usize = 24;

/// The parts of a tile, full of a NaN (Q8: of NaN scales) but where `store` is called.
fn empty_parts(kv_type: KvType) -> [Vec<u8>; 2] {
    [(); 2].map(|()| vec![0xff; kv_type.part_bytes(HEAD_DIM)])
}

fn kv<'a>(kv_type: KvType, parts: &'a [Vec<u8>; 2]) -> KvTile<'a> {
    KvTile {
        kv_type,
        head_dim: HEAD_DIM,
        keys: &parts[0],
        values: &parts[1],
        ahead: &[],
    }
}

/// Reads a stored key and value back: attending to one position gives its value, and a unit query's
/// score is an element of the key.
fn read_back(kv: &KvTile<'_>, pos: usize) -> (Vec<f32>, Vec<f32>) {
    let mut key = Vec::new();
    let mut value = vec![f32::NAN; HEAD_DIM];
    for c in 0..HEAD_DIM {
        let mut q = [0.0; HEAD_DIM];
        q[c] = 1.0;
        let mut state = vec![f32::NAN; HEAD_DIM + 2];
        attention::clear(&mut state);
        attention::attend_tile(kv, &q, pos, pos + 1, 1.0, &mut state);
        key.push(state[HEAD_DIM]);
        attention::finish(&state, &mut value);
    }
    (key, value)
}

#[test]
fn keys_and_values_are_stored_as_their_type_says() {
    let mut rng = Rng::new(23);
    for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
        let mut parts = empty_parts(kv_type);
        let positions = [0, 1, 15, 16, 40, 63];
        let stored: Vec<[Vec<f32>; 2]> = positions
            .iter()
            .map(|pos| {
                let [k, v] = [0.5, 3.0].map(|d| rng.normals(HEAD_DIM, d));
                attention::store_key(kv_type, &mut parts[0], *pos, &k);
                attention::store_value(kv_type, &mut parts[1], *pos, &v);
                [k, v]
            })
            .collect();
        for (pos, want) in positions.into_iter().zip(&stored) {
            let (k, v) = read_back(&kv(kv_type, &parts), pos);
            for (got, want) in [k, v].iter().zip(want) {
                let amax = f64s(want).fold(0.0, |m: f64, x| m.max(x.abs()));
                for (got, want) in f64s(got).zip(f64s(want)) {
                    let bound = match kv_type {
                        KvType::F32 => 0.0,
                        // Half a unit in the last of 11 bits, or of the smallest subnormal.
                        KvType::F16 => (want.abs() / 2048.0).max(2.0_f64.powi(-25)),
                        KvType::Q8 => amax / 127.0 * (0.5 + 127.0 * 4.0 * U),
                    };
                    let err = (got - want).abs();
                    assert!(err <= bound, "{kv_type:?} {pos}: {got} want {want}");
                }
            }
        }
    }
}

#[test]
fn what_f16_cannot_hold_saturates() {
    let mut parts = empty_parts(KvType::F16);
    let mut x = [0.0; HEAD_DIM];
    (x[0], x[1], x[2], x[3]) = (1e6, -1e6, 65519.0, 1e-9);
    attention::store_key(KvType::F16, &mut parts[0], 3, &[1.0; HEAD_DIM]);
    attention::store_value(KvType::F16, &mut parts[1], 3, &x);
    let (_, v) = read_back(&kv(KvType::F16, &parts), 3);
    assert_eq!(v[..4], [65504.0, -65504.0, 65504.0, 0.0]);
}

#[test]
fn attention_is_the_softmax_average_of_the_values() {
    let mut rng = Rng::new(29);
    let n_tiles = 9;
    let n = n_tiles * KV_TILE;
    let (keys, values) = (
        rng.normals(n * HEAD_DIM, 1.0),
        rng.normals(n * HEAD_DIM, 1.0),
    );
    let row = |x: &[f32], pos: usize| x[pos * HEAD_DIM..][..HEAD_DIM].to_vec();
    let scale = 0.2;
    for (first, end) in [(0, n), (0, 1), (3, 60), (60, 70), (130, n - 5)] {
        let q = rng.normals(HEAD_DIM, 1.0);
        let mut state = vec![f32::NAN; HEAD_DIM + 2];
        let mut by_merging = state.clone();
        attention::clear(&mut state);
        attention::clear(&mut by_merging);
        for t in 0..n_tiles {
            let start = t * KV_TILE;
            let lo = first.clamp(start, start + KV_TILE) - start;
            let hi = end.clamp(start, start + KV_TILE) - start;
            // What lies outside of the range is NaN, as a stale page may be.
            let mut parts = empty_parts(KvType::F32);
            for pos in lo..hi {
                attention::store_key(KvType::F32, &mut parts[0], pos, &row(&keys, start + pos));
                attention::store_value(KvType::F32, &mut parts[1], pos, &row(&values, start + pos));
            }
            let tile = kv(KvType::F32, &parts);
            attention::attend_tile(&tile, &q, lo, hi, scale, &mut state);
            let mut own = vec![f32::NAN; HEAD_DIM + 2];
            attention::clear(&mut own);
            attention::attend_tile(&tile, &q, lo, hi, scale, &mut own);
            attention::merge(&mut by_merging, &own);
        }
        assert_eq!(state, by_merging, "positions {first}..{end}");

        let score = |pos: usize| -> (f64, f64) {
            let products = f64s(&q).zip(f64s(&row(&keys, pos)).collect::<Vec<_>>());
            let (dot, size) =
                products.fold((0.0, 0.0), |(s, a), (q, k)| (s + q * k, a + (q * k).abs()));
            (dot * f64::from(scale), size * f64::from(scale))
        };
        let scores: Vec<(f64, f64)> = (first..end).map(score).collect();
        let max = scores.iter().fold(f64::MIN, |m, s| m.max(s.0));
        let weights: Vec<f64> = scores.iter().map(|s| (s.0 - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        // A score is off by one rounding for each channel and one for the scale, the largest score by
        // as much, their difference by one more; exp and the weights that merging multiplies add their
        // own, twice for each tile; then the sums: 64 positions and the tiles.
        let size = scores.iter().fold(0.0_f64, |m, s| m.max(s.1));
        let of_score = 2.0 * (HEAD_DIM as f64 + 1.0) * U * size + U * 4.0 * size;
        let of_tiles = n_tiles as f64 * (2.0 * EXP + 2.0 * of_score + 4.0 * U);
        let relative = of_score + EXP + of_tiles + (KV_TILE as f64 + 1.0) * U;
        let mut out = [f32::NAN; HEAD_DIM];
        attention::finish(&state, &mut out);
        for (c, out) in out.iter().enumerate() {
            let terms = (first..end)
                .zip(&weights)
                .map(|(pos, p)| p / total * f64::from(values[pos * HEAD_DIM + c]));
            let (want, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
            // Once for the values, once for the sum of weights.
            let bound = 2.02 * relative * size;
            let err = (f64::from(*out) - want).abs();
            assert!(
                err <= bound,
                "{first}..{end} channel {c}: {err:e}, bound {bound:e}"
            );
        }
    }
}

#[test]
fn equal_keys_average_the_values() {
    let mut parts = empty_parts(KvType::F16);
    for pos in 0..4 {
        attention::store_key(KvType::F16, &mut parts[0], pos, &[1.0; HEAD_DIM]);
        attention::store_value(KvType::F16, &mut parts[1], pos, &[pos as f32; HEAD_DIM]);
    }
    let mut state = vec![f32::NAN; HEAD_DIM + 2];
    attention::clear(&mut state);
    let tile = kv(KvType::F16, &parts);
    attention::attend_tile(&tile, &[1.0; HEAD_DIM], 0, 4, 0.5, &mut state);
    let mut out = [f32::NAN; HEAD_DIM];
    attention::finish(&state, &mut out);
    assert_eq!(out, [1.5; HEAD_DIM]);
    assert_eq!(state[HEAD_DIM..], [HEAD_DIM as f32 * 0.5, 4.0]);
}
