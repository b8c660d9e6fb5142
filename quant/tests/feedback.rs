//! Error feedback: what it promises of outputs, and that hostile input stays harmless.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use chaski_quant::{
    QuantType, TensorLayout,
    quantize::{Feedback, QuantizeError, Quantizer},
    scalar::dequantize_row,
    tile::check_tile,
};
use support::Rng;

/// Second moments of inputs whose columns go together, and their factors by plain loops.
fn moments(cols: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let mut rng = Rng::new(seed);
    let mut h = vec![0.0; cols * cols];
    for _ in 0..4 * cols {
        // Neighbours share half of their noise, and some columns are strong.
        let noise: Vec<f64> = (0..cols + 1).map(|_| f64::from(rng.normal())).collect();
        let x: Vec<f64> = (0..cols)
            .map(|k| (noise[k] + noise[k + 1]) * if k % 7 == 0 { 4.0 } else { 1.0 })
            .collect();
        for i in 0..cols {
            for j in 0..cols {
                h[i * cols + j] += x[i] * x[j] / (4 * cols) as f64;
            }
        }
    }
    let mut factors = h.clone();
    for k in (0..cols).rev() {
        let d = factors[k * cols + k];
        for i in 0..k {
            factors[i * cols + k] /= d;
        }
        for i in 0..k {
            for j in i..k {
                factors[i * cols + j] -= factors[i * cols + k] * d * factors[j * cols + k];
            }
        }
    }
    (h, factors)
}

/// `sum of e H e^T` over the rows of a tile.
fn output_error(h: &[f64], rows: &[Vec<f32>], layout: &TensorLayout, tile: &[u8]) -> f64 {
    let cols = layout.cols();
    let mut stored = vec![0.0; cols];
    rows.iter()
        .enumerate()
        .map(|(lane, row)| {
            dequantize_row(layout, tile, lane, &mut stored);
            let e: Vec<f64> = row
                .iter()
                .zip(&stored)
                .map(|(w, v)| f64::from(*w) - f64::from(*v))
                .collect();
            let he = |i: usize| (0..cols).map(|j| h[i * cols + j] * e[j]).sum::<f64>();
            (0..cols).map(|i| e[i] * he(i)).sum::<f64>()
        })
        .sum()
}

#[test]
fn feedback_lowers_the_error_of_the_outputs_and_tells_it() {
    let mut ratios = Vec::new();
    for (cols, n_rows) in [(96, 16), (77, 5)] {
        let (h, factors) = moments(cols, 11);
        let feedback = Feedback::new(cols, &factors).unwrap();
        let mut rng = Rng::new(3);
        let rows: Vec<Vec<f32>> = (0..n_rows)
            .map(|_| (0..cols).map(|_| rng.normal() * 0.02).collect())
            .collect();
        let views: Vec<&[f32]> = rows.iter().map(|r| &r[..]).collect();
        for qtype in [
            QuantType::Q3,
            QuantType::Q4,
            QuantType::Q4H,
            QuantType::Q5,
            QuantType::Q6,
            QuantType::Q8,
        ] {
            let layout = TensorLayout::new(qtype, n_rows, cols).unwrap();
            let quantizer = Quantizer::new(qtype);
            let mut plain = vec![0; layout.tile_bytes()];
            quantizer.quantize_tile(&views, &mut plain).unwrap();
            let mut tile = vec![0xff; layout.tile_bytes()];
            let (stats, told) = quantizer
                .quantize_tile_with_feedback(&views, &feedback, &mut tile)
                .unwrap();
            check_tile(&layout, 0, &tile).unwrap();
            let (before, after) = (
                output_error(&h, &rows, &layout, &plain),
                output_error(&h, &rows, &layout, &tile),
            );
            // How much varies with the columns; that it never grows, and the mean below, do not.
            assert!(after < before, "{qtype}: {before:e} to {after:e}");
            ratios.push(after / before);
            assert!(
                (told / after - 1.0).abs() < 1e-3,
                "{qtype}: {told:e}, {after:e}"
            );
            assert_eq!(stats.n, (n_rows * cols) as u64);
        }
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(mean < 0.75, "{ratios:?}");
}

#[test]
fn without_coupling_feedback_is_importance() {
    let cols = 70;
    let mut factors = vec![0.0; cols * cols];
    let importance: Vec<f32> = (0..cols).map(|k| 0.5 + (k % 5) as f32).collect();
    for k in 0..cols {
        factors[k * cols + k] = f64::from(importance[k]);
    }
    let feedback = Feedback::new(cols, &factors).unwrap();
    let mut rng = Rng::new(8);
    let row: Vec<f32> = (0..cols).map(|_| rng.normal()).collect();
    // Linear types: their codes are the nearest at scales that a weighted search found, too.
    let layout = TensorLayout::new(QuantType::Q6, 1, cols).unwrap();
    let (mut a, mut b) = (vec![0; layout.tile_bytes()], vec![0; layout.tile_bytes()]);
    let quantizer = Quantizer::new(QuantType::Q6);
    quantizer
        .quantize_tile_with_feedback(&[&row], &feedback, &mut a)
        .unwrap();
    quantizer
        .quantize_tile_weighted(&[&row], Some(&importance), &mut b)
        .unwrap();
    let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
    dequantize_row(&layout, &a, 0, &mut x);
    dequantize_row(&layout, &b, 0, &mut y);
    let weighted = |v: &[f32]| -> f64 {
        let each = row.iter().zip(v).zip(&importance);
        each.map(|((w, v), i)| f64::from(*i) * f64::from(w - v).powi(2))
            .sum()
    };
    assert!((weighted(&x) / weighted(&y) - 1.0).abs() < 0.02);
}

#[test]
fn hostile_rows_and_factors_are_handled_with_feedback() {
    let cols = 40;
    let mut factors = vec![0.0; cols * cols];
    for k in 0..cols {
        factors[k * cols + k] = 1.0;
        (k + 1..cols).for_each(|j| factors[k * cols + j] = -3.0);
    }
    let feedback = Feedback::new(cols, &factors).unwrap();
    for value in [0.0, f32::MAX, f32::from_bits(1), -1e-30, 1e30] {
        let row = vec![value; cols];
        for qtype in QuantType::ALL {
            let layout = TensorLayout::new(qtype, 1, cols).unwrap();
            let mut tile = vec![0; layout.tile_bytes()];
            let quantizer = Quantizer::new(qtype);
            match quantizer.quantize_tile_with_feedback(&[&row], &feedback, &mut tile) {
                Ok(_) => check_tile(&layout, 0, &tile).unwrap(),
                Err(error) => assert!(matches!(error, QuantizeError::OutOfRange { .. })),
            }
        }
    }
    let mut row = vec![1.0; cols];
    row[9] = f32::NAN;
    let layout = TensorLayout::new(QuantType::Q4, 1, cols).unwrap();
    let mut tile = vec![0; layout.tile_bytes()];
    let error =
        Quantizer::new(QuantType::Q4).quantize_tile_with_feedback(&[&row], &feedback, &mut tile);
    assert!(matches!(
        error,
        Err(QuantizeError::NotFinite { col: 9, .. })
    ));
    factors[0] = -1.0;
    assert!(matches!(
        Feedback::new(cols, &factors),
        Err(QuantizeError::Importance { col: 0, .. })
    ));
}
