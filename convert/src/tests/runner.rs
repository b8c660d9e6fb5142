//! Products by plain loops.

use crate::runner::Products;

/// As the trait says it, loop by loop.
pub(crate) struct Plain;

impl Products for Plain {
    fn add(&self, rows: &[f32], width: usize, scale: f64, sum: &mut [f64], stride: usize) {
        for i in 0..width {
            for j in i..width {
                let p = rows
                    .chunks_exact(width)
                    .fold(0.0, |p: f32, row| row[i].mul_add(row[j], p));
                sum[i * stride + j] += scale * f64::from(p);
            }
        }
    }
}
