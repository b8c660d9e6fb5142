//! What holds of every tile that the quantiser writes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use byteorder::{ByteOrder, LittleEndian};
use chaski_quant::{
    BLOCK, QuantType, TILE_ROWS,
    quantize::{QuantizeError, Quantizer, TileStats},
    scalar::{dequantize_tile, float_weight},
    tile::{self, check_tile},
};
use proptest::prelude::*;
use support::{Rng, quantize, tile_layout};
use xxhash_rust::xxh3::xxh3_64;

fn quantized_types() -> impl Iterator<Item = QuantType> {
    QuantType::ALL.into_iter().filter(|t| t.is_quantized())
}

#[test]
fn gaussian_rows_reach_the_required_signal_to_noise() {
    let required = [
        (QuantType::Q3, 16.6),
        (QuantType::Q4, 22.85),
        (QuantType::Q4H, 24.2),
        (QuantType::Q5, 27.8),
        (QuantType::Q6, 33.9),
        (QuantType::Q8, 45.6),
    ];
    let cols = 2048;
    for seed in [1, 2, 3, 4] {
        let mut rng = Rng::new(seed);
        let tiles: Vec<_> = (0..3)
            .map(|_| rng.normals(TILE_ROWS * cols, 0.02))
            .collect();
        for (qtype, required) in required {
            let mut stats = TileStats::default();
            for weights in &tiles {
                stats.merge(&quantize(qtype, weights, cols).1);
            }
            let db = stats.sqnr_db();
            println!("seed {seed}: {qtype} {db:.3} dB, required {required}");
            assert!(db >= required, "seed {seed}: {qtype} has {db:.3} dB");
        }
    }
}

/// The values that a weight of a row could have been given: all of the grid, with the block's shift.
fn grid(qtype: QuantType, block: &[u8], row: usize, k: usize) -> Vec<i32> {
    if let Some(codebook) = tile::codebook(qtype) {
        let half = if qtype == QuantType::Q4H { k / 16 } else { 0 };
        let shift = i32::from(tile::q4_scale(block[half * TILE_ROWS + row]).1);
        return codebook.iter().map(|v| i32::from(*v) + shift).collect();
    }
    match qtype {
        QuantType::Q5 => (-16..=15).collect(),
        QuantType::Q6 => (-32..=31).collect(),
        _ => (-127..=127).collect(),
    }
}

/// Checks a tile of `weights`, `[n_rows, cols]`, in every respect.
fn check(qtype: QuantType, weights: &[f32], cols: usize) {
    let n_rows = weights.len() / cols;
    let (bytes, stats) = quantize(qtype, weights, cols);
    let layout = tile_layout(qtype, n_rows, cols);
    check_tile(&layout, 0, &bytes).unwrap();
    let decoded = dequantize_tile(&layout, 0, &bytes);
    assert!(
        decoded.iter().all(|x| x.is_finite()),
        "{qtype}: infinite weight"
    );

    let mut want = TileStats::default();
    for (x, y) in weights.iter().zip(&decoded) {
        let err = f64::from(*x) - f64::from(*y);
        want.n += 1;
        want.sum_sq += f64::from(*x) * f64::from(*x);
        want.err_sq += err * err;
        want.max_abs_err = want.max_abs_err.max(err.abs() as f32);
    }
    assert_eq!(stats.n, want.n, "{qtype}");
    // A weight 2^126 times smaller than its row's largest counts as zero.
    let max = weights
        .iter()
        .fold(0.0_f64, |m, x| m.max(f64::from(x.abs())));
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-10 * b + 1e-75 * max * max;
    assert!(
        near(stats.sum_sq, want.sum_sq),
        "{qtype}: {stats:?} {want:?}"
    );
    assert!(
        near(stats.err_sq, want.err_sq),
        "{qtype}: {stats:?} {want:?}"
    );
    let difference = f64::from(stats.max_abs_err) - f64::from(want.max_abs_err);
    assert!(
        difference.abs() <= 1e-37 * max,
        "{qtype}: {stats:?} {want:?}"
    );
    assert!(stats.err_sq <= stats.sum_sq, "{qtype}: worse than zeros");
    if !qtype.is_quantized() {
        return;
    }

    for row in 0..n_rows {
        let scale = LittleEndian::read_f32(&bytes[4 * row..]);
        assert!(
            scale == 0.0 || scale.is_normal(),
            "{qtype}: scale {scale:e}"
        );
        assert!(scale.is_sign_positive(), "{qtype}: scale {scale:e}");
        for k in 0..cols {
            let at = qtype.tile_header_bytes() + k / BLOCK * qtype.tile_block_bytes();
            let block = &bytes[at..at + qtype.tile_block_bytes()];
            let v = f64::from(tile::scales(qtype, block, row)[k % BLOCK / 16]);
            let value = tile::values(qtype, block, row)[k % BLOCK];
            if v == 0.0 {
                assert_eq!(value, 0, "{qtype}: the code of a block without scale");
                continue;
            }
            // No other code would have been nearer; ties and the last bits of a quotient aside.
            let (x, step) = (f64::from(weights[row * cols + k]), v * f64::from(scale));
            let err = |value: i32| (x - f64::from(value) * step).abs();
            let best = grid(qtype, block, row, k % BLOCK)
                .into_iter()
                .map(err)
                .fold(f64::MAX, f64::min);
            let slack = 1e-5 * (x.abs() + step.abs());
            assert!(
                err(i32::from(value)) <= best + slack,
                "{qtype} row {row} column {k}: {x:e} as {value} x {step:e}"
            );
            // Half the widest gap, where the weight lies within the grid.
            let values = grid(qtype, block, row, k % BLOCK);
            let (lo, hi) = (values[0], values[values.len() - 1]);
            let t = x / step;
            if t >= f64::from(lo) && t <= f64::from(hi) {
                let codebook = tile::codebook(qtype).is_some();
                let half = if codebook { 3.0 } else { 0.5 };
                assert!(err(i32::from(value)) <= half * step.abs() + slack);
            }
        }
    }
}

#[test]
fn hostile_rows_are_handled() {
    let tiny = f32::from_bits(1);
    let rows: [(&str, Vec<f32>); 16] = [
        ("zeros", vec![0.0; 70]),
        ("negative zeros", vec![-0.0; 70]),
        (
            "one weight",
            [vec![0.0; 40], vec![-3.0], vec![0.0; 29]].concat(),
        ),
        ("a block of zeros", [vec![0.5; 32], vec![0.0; 38]].concat()),
        ("the smallest subnormal", vec![tiny; 70]),
        (
            "subnormals",
            (0..70).map(|i| f32::from_bits(i * 99_991)).collect(),
        ),
        ("the smallest normal", vec![f32::MIN_POSITIVE; 70]),
        ("a scale that would be subnormal", vec![3e-37; 70]),
        (
            "a scale at the edge",
            (0..70).map(|i| i as f32 * 1e-36).collect(),
        ),
        (
            "1e38",
            (0..70).map(|i| (i as f32 - 35.0) * 2.8e36).collect(),
        ),
        (
            "the largest",
            [vec![f32::MAX; 35], vec![-f32::MAX; 35]].concat(),
        ),
        (
            "largest and smallest",
            [vec![f32::MAX], vec![tiny; 69]].concat(),
        ),
        (
            "1e38 and 1e-38",
            (0..70)
                .map(|i| if i % 2 == 0 { 1e38 } else { 1e-38 })
                .collect(),
        ),
        ("equal weights", vec![0.3; 70]),
        (
            "a block 1e9 times the others",
            (0..70).map(|i| if i < 32 { 1e9 } else { 1.0 }).collect(),
        ),
        (
            "alternating",
            (0..70)
                .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
                .collect(),
        ),
    ];
    for (name, row) in &rows {
        println!("{name}");
        for qtype in quantized_types().chain([QuantType::F32]) {
            check(qtype, row, 70);
            check(qtype, &row[..1], 1);
            check(qtype, &[&row[..], &[1.0; 70], row].concat(), 70);
        }
    }
    let all: Vec<f32> = rows.iter().flat_map(|(_, row)| row.clone()).collect();
    quantized_types().for_each(|qtype| check(qtype, &all, 70));
}

#[test]
fn a_row_of_zeros_has_scale_zero_and_codes_of_zero() {
    for qtype in quantized_types() {
        let (bytes, stats) = quantize(qtype, &[0.0; 2 * 64], 64);
        assert!(bytes[..64].iter().all(|b| *b == 0), "{qtype}");
        assert_eq!((stats.err_sq, stats.sqnr_db()), (0.0, f64::INFINITY));
        let block = &bytes[64..64 + qtype.tile_block_bytes()];
        assert_eq!(tile::values(qtype, block, 1), [0; BLOCK], "{qtype}");
        assert_eq!(tile::scales(qtype, block, 1), [0; 2], "{qtype}");
    }
}

#[test]
fn a_tiny_row_keeps_its_shape_until_its_scale_would_be_subnormal() {
    let row: Vec<f32> = (0..64)
        .map(|i| ((i * 37 % 64) as f32 - 31.5) / 32.0)
        .collect();
    for qtype in quantized_types() {
        let codes = |exponent: i32| {
            let factor = libm::ldexp(1.0, exponent) as f32;
            let row: Vec<f32> = row.iter().map(|x| x * factor).collect();
            let bytes = quantize(qtype, &row, 64).0;
            (LittleEndian::read_f32(&bytes), bytes[64..].to_vec())
        };
        let (unit, want) = codes(0);
        for exponent in [-100, -60, -1, 1, 60, 120] {
            let (scale, got) = codes(exponent);
            assert_eq!(got, want, "{qtype} times 2^{exponent}");
            assert_eq!(
                f64::from(scale),
                f64::from(unit) * libm::ldexp(1.0, exponent)
            );
        }
        let small = codes(-122).0;
        assert!(
            (1.0..1.5).contains(&(small / f32::MIN_POSITIVE)),
            "{qtype}: {small:e}"
        );
        assert_eq!(codes(-140).0, 0.0, "{qtype}");
    }
}

#[test]
fn a_row_does_not_depend_on_its_place_or_its_neighbours() {
    let cols = 96;
    let mut rng = Rng::new(7);
    let weights = rng.normals(TILE_ROWS * cols, 0.1);
    for qtype in quantized_types() {
        let (all, _) = quantize(qtype, &weights, cols);
        let layout = tile_layout(qtype, TILE_ROWS, cols);
        let decoded = dequantize_tile(&layout, 0, &all);
        let reversed: Vec<f32> = weights.chunks(cols).rev().flatten().copied().collect();
        let (bytes, _) = quantize(qtype, &reversed, cols);
        let back = dequantize_tile(&layout, 0, &bytes);
        assert!(decoded.chunks(cols).eq(back.chunks(cols).rev()), "{qtype}");
        for n_rows in [1, 5, 15] {
            let (bytes, _) = quantize(qtype, &weights[..n_rows * cols], cols);
            let some = dequantize_tile(&tile_layout(qtype, n_rows, cols), 0, &bytes);
            assert_eq!(some, decoded[..n_rows * cols], "{qtype}, {n_rows} rows");
        }
    }
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    // Recorded on x86-64; the tests run on AArch64, too.
    let want = [
        (QuantType::F32, 0x2e82_6b58_6486_5dfb),
        (QuantType::F16, 0x43c8_1e87_9c18_fca9),
        (QuantType::BF16, 0x65d5_50fe_b5e4_8794),
        (QuantType::Q4, 0xd1cd_6259_9465_f617),
        (QuantType::Q4H, 0xa30e_7d20_64a0_2ae7),
        (QuantType::Q5, 0xb1e7_404c_fee3_99dc),
        (QuantType::Q6, 0x9959_0793_21c6_25a2),
        (QuantType::Q8, 0x4bea_6833_4ea4_9e48),
        (QuantType::Q3, 0x40c0_e5b4_1d5a_3ae5),
    ];
    let cols = 1000;
    let mut rng = Rng::new(42);
    let weights: Vec<f32> = (0..TILE_ROWS * cols)
        .map(|_| rng.normal() * rng.normal())
        .collect();
    let importance: Vec<f32> = (0..cols).map(|_| rng.uniform() as f32).collect();
    let rows: Vec<&[f32]> = weights.chunks_exact(cols).collect();
    let got = want.map(|(qtype, _)| {
        let (mut bytes, _) = quantize(qtype, &weights, cols);
        assert_eq!(bytes, quantize(qtype, &weights, cols).0, "{qtype}");
        let mut weighted = vec![0; bytes.len()];
        Quantizer::new(qtype)
            .quantize_tile_weighted(&rows, Some(&importance), &mut weighted)
            .unwrap();
        bytes.extend(weighted);
        (qtype, xxh3_64(&bytes))
    });
    assert_eq!(got, want, "{got:#x?}");
}

#[test]
fn importance_lowers_the_weighted_error() {
    let cols = 512;
    let mut rng = Rng::new(3);
    let weights = rng.normals(TILE_ROWS * cols, 1.0);
    let importance: Vec<f32> = (0..cols).map(|_| libm::expf(2.0 * rng.normal())).collect();
    let rows: Vec<&[f32]> = weights.chunks_exact(cols).collect();
    for qtype in quantized_types() {
        let layout = tile_layout(qtype, TILE_ROWS, cols);
        let run = |importance: Option<&[f32]>| {
            let mut out = vec![0; layout.tile_bytes()];
            Quantizer::new(qtype)
                .quantize_tile_weighted(&rows, importance, &mut out)
                .unwrap();
            out
        };
        let weighted_error = |bytes: &[u8]| {
            let decoded = dequantize_tile(&layout, 0, bytes);
            let terms = weights.iter().zip(&decoded).enumerate();
            terms
                .map(|(i, (x, y))| f64::from(importance[i % cols]) * f64::from(x - y).powi(2))
                .sum::<f64>()
        };
        let (plain, weighted) = (run(None), run(Some(&importance)));
        let gain = 10.0 * (weighted_error(&plain) / weighted_error(&weighted)).log10();
        println!("{qtype}: {gain:.2} dB less weighted error");
        assert!(gain > 0.1, "{qtype}: {gain} dB");
        assert_eq!(run(Some(&vec![0.0; cols])), plain, "{qtype}");
        // Only ratios matter.
        let scaled: Vec<f32> = importance.iter().map(|v| v * 1024.0).collect();
        assert_eq!(run(Some(&scaled)), weighted, "{qtype}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let rows = |row: usize, col: usize, value: f32| {
        let mut rows = vec![vec![0.25; 40]; 3];
        rows[row][col] = value;
        rows
    };
    let run = |qtype: QuantType, rows: &[Vec<f32>], importance: Option<&[f32]>| {
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let mut out = vec![0; tile_layout(qtype, rows.len(), 40).tile_bytes()];
        Quantizer::new(qtype).quantize_tile_weighted(&rows, importance, &mut out)
    };
    for qtype in QuantType::ALL {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            match run(qtype, &rows(2, 39, bad), None) {
                Err(QuantizeError::NotFinite {
                    row: 2,
                    col: 39,
                    value,
                }) => {
                    assert_eq!(value.to_bits(), bad.to_bits());
                }
                other => panic!("{qtype}: {other:?}"),
            }
            let mut importance = [1.0; 40];
            importance[7] = bad;
            assert!(matches!(
                run(qtype, &rows(0, 0, 1.0), Some(&importance)),
                Err(QuantizeError::Importance { col: 7, .. })
            ));
        }
    }
    let beyond = [
        (QuantType::F16, 65520.0, 65519.9),
        (QuantType::BF16, f32::MAX, 3.39e38),
    ];
    for (qtype, beyond, within) in beyond {
        let error = run(qtype, &rows(1, 8, -beyond), None).unwrap_err();
        let want = QuantizeError::OutOfRange {
            row: 1,
            col: 8,
            value: -beyond,
            qtype,
        };
        assert_eq!(error, want);
        assert!(error.to_string().contains("row 1, column 8"), "{error}");
        run(qtype, &rows(1, 8, within), None).unwrap();
    }
}

#[test]
fn float_types_round_to_nearest_even() {
    // Halfway cases: 1 + 2^-11 lies between two f16, 1 + 2^-8 between two bf16.
    let cases = [
        (QuantType::F16, 1.0 + 1.0 / 2048.0, 1.0),
        (QuantType::F16, 1.0 + 3.0 / 2048.0, 1.0 + 2.0 / 1024.0),
        (QuantType::F16, 5.960_464_5e-8, 5.960_464_5e-8),
        (QuantType::F16, 2.980_232_2e-8, 0.0),
        (QuantType::BF16, 1.0 + 1.0 / 256.0, 1.0),
        (QuantType::BF16, 1.0 + 3.0 / 256.0, 1.0 + 2.0 / 128.0),
        (QuantType::F32, 0.1, 0.1),
        (QuantType::F32, 1e-45, 1e-45),
    ];
    for (qtype, x, want) in cases {
        let (bytes, stats) = quantize(qtype, &[x, -x], 1);
        assert_eq!(float_weight(qtype, &bytes, 0, 0), want, "{qtype} {x}");
        assert_eq!(float_weight(qtype, &bytes, 1, 0), -want, "{qtype} {x}");
        assert_eq!(stats.max_abs_err, (x - want).abs());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_tile_is_checked_decoded_and_nearest(
        seed: u64,
        type_index in 0..QuantType::ALL.len(),
        n_rows in 1..=16_usize,
        cols in 1..=100_usize,
        exponent in -12..12_i32,
        heavy: bool,
    ) {
        let mut rng = Rng::new(seed);
        let weights: Vec<f32> = (0..n_rows * cols)
            .map(|_| {
                let x = rng.normal() * libm::ldexp(1.0, exponent) as f32;
                if heavy { x * rng.normal() * rng.normal() } else { x }
            })
            .collect();
        check(QuantType::ALL[type_index], &weights, cols);
    }
}
