//! What can be seen of a forward pass from outside.
//!
//! Calibration, sensitivities and errors by layer all need the same: the rows that enter each
//! matrix. A backend that can be observed shows them at fixed places of the walk; looking changes no
//! result.

use std::fmt;

/// A place in the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// The hidden states that enter a layer, before its norm, `[dim]`.
    Layer,
    /// What Q, K and V multiply: normed hidden states, `[dim]`.
    Qkv,
    /// What the attention output matrix multiplies, `[n_heads * head_dim]`.
    AttnOutput,
    /// What gate and up multiply: normed hidden states, `[dim]`.
    GateUp,
    /// What the down matrix multiplies, `[ffn_dim]`.
    Down,
    /// What the output matrix multiplies, `[dim]`; only the rows whose logits are wanted.
    Head,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Layer => "layer",
            Self::Qkv => "qkv",
            Self::AttnOutput => "attn_output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Head => "head",
        })
    }
}

/// The rows at one place of one layer, as they are before any quantisation.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The place.
    pub site: Site,
    /// The layer; of [`Site::Head`], the number of layers.
    pub layer: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Numbers from one row to the next.
    stride: usize,
    n_rows: usize,
    values: &'a [f32],
}

impl<'a> Observed<'a> {
    /// `n_rows` rows of `width` numbers, `stride` apart.
    ///
    /// # Panics
    ///
    /// If `values` is too short for them or `stride` is less than `width`.
    pub fn new(
        site: Site,
        layer: usize,
        n_rows: usize,
        width: usize,
        stride: usize,
        values: &'a [f32],
    ) -> Self {
        assert!(stride >= width, "rows of {width} overlap, {stride} apart");
        assert!(
            n_rows == 0 || (n_rows - 1) * stride + width <= values.len(),
            "{n_rows} rows of {width}, {stride} apart, in {} numbers",
            values.len()
        );
        Self {
            site,
            layer,
            width,
            stride,
            n_rows,
            values,
        }
    }

    /// Number of rows.
    pub const fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The rows, each of [`width`](Self::width) numbers.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        let (values, width, stride) = (self.values, self.width, self.stride);
        (0..self.n_rows).map(move |i| &values[i * stride..i * stride + width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_leave_the_padding_out() {
        let values = [1.0, 2.0, 0.0, 3.0, 4.0];
        let seen = Observed::new(Site::Down, 3, 2, 2, 3, &values);
        let rows: Vec<_> = seen.rows().collect();
        assert_eq!(rows, [[1.0, 2.0], [3.0, 4.0]]);
        assert_eq!(
            (seen.n_rows(), seen.site.to_string()),
            (2, "down".to_owned())
        );
        assert_eq!(Observed::new(Site::Qkv, 0, 0, 2, 2, &[]).rows().len(), 0);
    }

    #[test]
    #[should_panic(expected = "2 rows of 3, 3 apart, in 5 numbers")]
    fn rows_that_are_not_there_are_refused() {
        let _ = Observed::new(Site::Qkv, 0, 2, 3, 3, &[0.0; 5]);
    }
}
