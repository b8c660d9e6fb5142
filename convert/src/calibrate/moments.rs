//! Second moments of activations, and their factors.

use chaski_quant::quantize::{Feedback, QuantizeError};

use crate::runner::Products;

/// The sums of products of all columns of a matrix's input.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    width: usize,
    /// Rows summed.
    n_rows: u64,
    /// `[width, width]`, the upper triangle.
    sum: Vec<f64>,
}

/// Columns that are factorised at a time, by plain loops; the rest of the matrix is then updated by
/// products of matrices.
const PANEL: usize = 128;

/// The least mean square of a column, as a share of the mean over all columns.
const LEAST: f64 = 1e-9;

impl Moments {
    /// No rows yet.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width,
            n_rows: 0,
            sum: vec![0.0; width * width],
        }
    }

    /// Bytes of the sums of `width` columns.
    pub(crate) const fn bytes(width: usize) -> u64 {
        8 * (width * width) as u64
    }

    /// Adds rows, `[n, width]`.
    pub(crate) fn add(&mut self, products: &dyn Products, rows: &[f32]) {
        self.n_rows += (rows.len() / self.width) as u64;
        products.add(rows, self.width, 1.0, &mut self.sum, self.width);
    }

    /// The feedback that they make.
    ///
    /// * `damping`: this share of the mean square of each column is added to it, as if its activations
    ///   had noise of that strength of their own: what few rows say of how columns go together is
    ///   not believed to the letter. A share of the mean over all columns, as is usual, would
    ///   drown the ordinary columns where a few are a thousand times stronger.
    ///
    /// # Errors
    ///
    /// Sums that are not finite.
    pub(crate) fn feedback(
        mut self,
        products: &dyn Products,
        damping: f64,
    ) -> Result<Feedback, QuantizeError> {
        let n = self.n_rows.max(1) as f64;
        self.sum.iter_mut().for_each(|x| *x /= n);
        let squares = (0..self.width).map(|k| self.sum[k * self.width + k]);
        let mean = squares.sum::<f64>() / self.width as f64;
        if !mean.is_finite() {
            let bad = |k: &usize| !self.sum[k * self.width + k].is_finite();
            let col = (0..self.width).find(bad).unwrap_or(0);
            let value = self.sum[col * self.width + col] as f32;
            return Err(QuantizeError::Importance { col, value });
        }
        // A column that was always zero counts as a very weak one.
        let least = (LEAST * mean).max(f64::MIN_POSITIVE);
        for k in 0..self.width {
            let square = &mut self.sum[k * self.width + k];
            *square = *square * (1.0 + damping) + least;
        }
        factorise(products, self.width, least, &mut self.sum);
        Feedback::new(self.width, &self.sum)
    }
}

/// Factorises a symmetric matrix `H = (I + U) D (I + U)^T`, `U` strictly upper triangular, in place:
/// `D` comes to stand on the diagonal, `U` right of it.
///
/// * `h`: `[n, n]`, the upper triangle; what is left of the diagonal is not touched.
/// * `least`: a `D` below it, which only rounding can make of a matrix without negative directions,
///   becomes it.
///
/// From the last columns to the first, a panel at a time: within the panel in f64; the update of
/// what is left of it by products that are summed in f32, as the matrix itself was, and taken off
/// in f64.
pub(crate) fn factorise(products: &dyn Products, n: usize, least: f64, h: &mut [f64]) {
    let mut end = n;
    let mut rows = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PANEL);
        for k in (start..end).rev() {
            let d = h[k * n + k].max(least);
            h[k * n + k] = d;
            for i in 0..k {
                h[i * n + k] /= d;
            }
            // The columns of the panel that are still to come: H_ij -= U_ik D_k U_jk.
            let column: Vec<f64> = (start..k).map(|j| h[j * n + k] * d).collect();
            for i in 0..k {
                let u = h[i * n + k];
                let first = i.max(start);
                let row = &mut h[i * n + first..i * n + k];
                for (x, ud) in row.iter_mut().zip(&column[first - start..]) {
                    *x -= u * ud;
                }
            }
        }
        if start > 0 {
            // All at once: rows of U sqrt(D), as products of columns.
            rows.clear();
            for k in start..end {
                let root = h[k * n + k].sqrt();
                rows.extend((0..start).map(|i| (h[i * n + k] * root) as f32));
            }
            products.add(&rows, start, -1.0, h, n);
        }
        end = start;
    }
}

#[cfg(test)]
mod tests {
    use chaski_models::testing::Rng;

    use super::*;
    use crate::tests::runner::Plain;

    /// A matrix of products of `rows` seeded rows.
    fn products(n: usize, rows: usize, rng: &mut Rng) -> Vec<f32> {
        (0..n * rows).map(|_| rng.normal() as f32).collect()
    }

    #[test]
    fn the_factors_give_the_matrix_back() {
        let mut rng = Rng::new(5);
        for n in [1, 2, 31, 127, 128, 129, 300] {
            let mut moments = Moments::new(n);
            let rows = products(n, 2 * n, &mut rng);
            moments.add(&Plain, &rows);
            let before = moments.sum.clone();
            let mut h = moments.sum;
            factorise(&Plain, n, 0.0, &mut h);
            let scale = before[0];
            for i in 0..n {
                for j in i..n {
                    // sum over k of (I + U)_ik D_k (I + U)_jk
                    let u = |i: usize, k: usize| if i == k { 1.0 } else { h[i * n + k] };
                    let got: f64 = (j..n).map(|k| u(i, k) * h[k * n + k] * u(j, k)).sum();
                    let want = before[i * n + j];
                    assert!(
                        (got - want).abs() < 1e-5 * scale,
                        "{n}: {i}, {j}: {got}, {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn moments_are_the_means_of_products() {
        let mut moments = Moments::new(3);
        moments.add(&Plain, &[1.0, 2.0, 3.0, -1.0, 0.5, 4.0]);
        moments.add(&Plain, &[2.0, 0.0, 1.0]);
        assert_eq!(moments.n_rows, 3);
        assert_eq!(moments.sum[..3], [6.0, 1.5, 1.0]);
        assert_eq!(
            (moments.sum[4], moments.sum[5], moments.sum[8]),
            (4.25, 8.0, 26.0)
        );
    }

    #[test]
    fn fewer_rows_than_columns_and_dead_columns_still_make_a_feedback() {
        let mut rng = Rng::new(9);
        let n = 40;
        let mut rows = products(n, 5, &mut rng);
        rows.chunks_exact_mut(n).for_each(|r| r[7] = 0.0);
        let mut moments = Moments::new(n);
        moments.add(&Plain, &rows);
        assert_eq!(moments.feedback(&Plain, 0.01).unwrap().cols(), n);
        // Not a single row.
        assert_eq!(Moments::new(n).feedback(&Plain, 0.01).unwrap().cols(), n);
        let mut broken = Moments::new(2);
        broken.add(&Plain, &[f32::INFINITY, 1.0]);
        assert!(broken.feedback(&Plain, 0.01).is_err());
    }
}
