//! Channels are brought to like strength before they are quantised.
//!
//! A block of 32 activations has one scale, and so has a block of weights: where one channel is much
//! stronger than its neighbours, these lose. Of what a matrix multiplies, a channel can be made
//! weaker if the matrix's column is made stronger: the gains of the norm before it, or the rows of
//! the matrix that the channel comes out of, take the inverse. With powers of two every product is
//! then the same number, to the last bit, as long as nothing is rounded.
//!
//! | channels of | made weaker in | made stronger in |
//! |---|---|---|
//! | the norm before attention | its gains | columns of Q, K, V |
//! | a head's values | rows of V, its bias | columns of the attention output, of every query head that shares them |
//! | the norm before the feed-forward network | its gains | columns of gate and up |
//! | the feed-forward network | rows of up | columns of down |
//! | the last norm | its gains | columns of the output matrix, where it is not the embeddings |
//!
//! A channel of mean magnitude `m` is divided by `(m / median)^(1/2)`, rounded to a power of two: half of
//! what it is stronger by goes to the weights, half stays (SmoothQuant, Xiao et al. 2022,
//! arXiv:2211.10438). That is done where all matrices that multiply it are so fine that the activations'
//! error is the larger one; coarser weights lose more by columns of unlike strength than activations
//! gain. Magnitudes are seen by running the source on a text. Their mean, not that of their squares, which
//! few tokens decide; nor without the first ones of a text, which all others attend to
//! (docs/quantiser.md has the figures).

mod measure;

use std::ops::Range;

use chaski_models::{Config, tensors::Role};

use crate::{
    error::ConvertError,
    mapping::Mapped,
    source::{
        Generation, Naming, RowOrder, Source, SourceError, SourceFile, SourceTensor, TokenizerFiles,
    },
};

pub(crate) use measure::Balance;

/// The largest power of two that a channel is multiplied or divided by, as an exponent.
const MOST: i32 = 6;

/// The option in a file's provenance that tells that its channels were balanced.
pub const OPTION: &str = "balance";

/// The version of the way in which channels are balanced: the option's value.
pub(crate) const VERSION: u32 = 1;

/// What a tensor's rows and columns are multiplied by; empty: by 1.
#[derive(Clone, Debug, Default, PartialEq)]
struct Factors {
    rows: Vec<f32>,
    cols: Vec<f32>,
}

/// A source whose channels are balanced.
pub(crate) struct Balanced<'a> {
    source: &'a dyn Source,
    /// Of each tensor.
    factors: Vec<Factors>,
}

impl std::fmt::Debug for Balanced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balanced")
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}

/// `2^e`, `e` in -126..=127.
fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// `floor(log2(x))` of a normal positive number.
fn exponent(x: f64) -> i32 {
    (x.to_bits() >> 52) as i32 - 1023
}

/// The exponent that each channel is divided by: half the logarithm of its magnitude over the median,
/// to the nearest integer. By the bits of the numbers, so that every machine finds the same.
fn exponents(magnitudes: &[f64]) -> Vec<i32> {
    let mut sorted = magnitudes.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    let of = |&magnitude: &f64| {
        let ratio = magnitude / median;
        let square = ratio * ratio;
        if !square.is_normal() {
            // A channel that is always zero, or more often than not.
            return 0;
        }
        (exponent(square) + 2).div_euclid(4).clamp(-MOST, MOST)
    };
    magnitudes.iter().map(of).collect()
}

impl<'a> Balanced<'a> {
    /// Nothing is changed yet.
    fn new(source: &'a dyn Source) -> Self {
        let factors = vec![Factors::default(); source.tensors().len()];
        Self { source, factors }
    }

    /// Multiplies columns of a matrix, or elements of a vector, by `2^exponents`.
    fn scale_cols(&mut self, tensor: usize, exponents: &[i32]) {
        self.factors[tensor].cols = exponents.iter().map(|&e| power_of_two(e)).collect();
    }

    /// Divides by `2^exponents`: elements of a vector or rows of a matrix.
    fn divide(&mut self, tensor: usize, exponents: &[i32]) {
        let inverse: Vec<f32> = exponents.iter().map(|&e| power_of_two(-e)).collect();
        let is_vector = self.source.tensors()[tensor].vector;
        let factors = &mut self.factors[tensor];
        match is_vector {
            true => factors.cols = inverse,
            false => factors.rows = inverse,
        }
    }

    /// `error`, or that a weight became infinite by its channel's factor.
    pub(crate) fn name_overflow(&self, error: ConvertError) -> ConvertError {
        match error {
            ConvertError::NotFinite {
                tensor,
                row,
                col,
                value,
            } if value.is_infinite() && self.changes(&tensor) => {
                ConvertError::Overflow { tensor, row, col }
            }
            error => error,
        }
    }

    fn changes(&self, name: &str) -> bool {
        let tensors = self.source.tensors().iter().zip(&self.factors);
        let mut of_name = tensors.filter(|(tensor, _)| tensor.name == name);
        of_name.any(|(_, factors)| *factors != Factors::default())
    }

    /// Balances the channels of a norm, or of the matrix that makes them.
    ///
    /// * `weaker`: norms, biases and matrices whose rows the channels are.
    /// * `stronger`: matrices whose columns they are; each channel is as many of them, in turn, as
    ///   `columns` says for it.
    fn apply(
        &mut self,
        mapped: &[Mapped],
        layer: Option<usize>,
        (weaker, stronger): (&[Role], &[Role]),
        exponents: &[i32],
        columns: &[i32],
    ) {
        for tensor in mapped.iter().filter(|m| m.spec.layer == layer) {
            if weaker.contains(&tensor.spec.role) {
                self.divide(tensor.source, exponents);
            } else if stronger.contains(&tensor.spec.role) {
                self.scale_cols(tensor.source, columns);
            }
        }
    }

    /// Balances a norm and the matrices behind it.
    fn norm(&mut self, mapped: &[Mapped], layer: Option<usize>, norm: Role, magnitudes: &[f64]) {
        let matrices: &[Role] = match norm {
            Role::AttnNorm => &[Role::AttnQ, Role::AttnK, Role::AttnV],
            Role::FfnNorm => &[Role::FfnGate, Role::FfnUp],
            _ => &[Role::Output],
        };
        let exponents = exponents(magnitudes);
        self.apply(mapped, layer, (&[norm], matrices), &exponents, &exponents);
    }

    /// Balances values. `magnitudes`: of what the attention output matrix multiplies.
    fn values(&mut self, mapped: &[Mapped], layer: usize, config: &Config, magnitudes: &[f64]) {
        let (head, kv_heads) = (config.head_dim, config.n_kv_heads);
        let shared = config.n_heads / kv_heads;
        // A channel of a key/value head is one of each of its query heads.
        let places = |channel: usize| {
            let (kv, i) = (channel / head, channel % head);
            (0..shared).map(move |q| (kv * shared + q) * head + i)
        };
        let of = |channel| places(channel).map(|at| magnitudes[at]).sum::<f64>();
        let sums: Vec<f64> = (0..kv_heads * head).map(of).collect();
        let exponents = exponents(&sums);
        let mut columns = vec![0; magnitudes.len()];
        for (channel, &e) in exponents.iter().enumerate() {
            places(channel).for_each(|at| columns[at] = e);
        }
        let roles: (&[Role], &[Role]) = (&[Role::AttnV, Role::AttnVBias], &[Role::AttnOut]);
        self.apply(mapped, Some(layer), roles, &exponents, &columns);
    }

    /// Balances the feed-forward network's channels.
    fn hidden(&mut self, mapped: &[Mapped], layer: usize, magnitudes: &[f64]) {
        let exponents = exponents(magnitudes);
        let roles: (&[Role], &[Role]) = (&[Role::FfnUp], &[Role::FfnDown]);
        self.apply(mapped, Some(layer), roles, &exponents, &exponents);
    }
}

impl Source for Balanced<'_> {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn naming(&self) -> Naming {
        self.source.naming()
    }

    fn config(&self) -> &Config {
        self.source.config()
    }

    fn tensors(&self) -> &[SourceTensor] {
        self.source.tensors()
    }

    fn read_raw(
        &self,
        tensor: usize,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.source.read_raw(tensor, rows, out)
    }

    fn decode(
        &self,
        tensor: usize,
        first: usize,
        raw: &[u8],
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        self.source.decode(tensor, first, raw, out)?;
        let Factors { rows, cols } = &self.factors[tensor];
        let width = self.source.tensors()[tensor].cols;
        for (i, row) in out.chunks_exact_mut(width).enumerate() {
            for (x, factor) in row.iter_mut().zip(cols) {
                *x *= factor;
            }
            if let Some(factor) = rows.get(first + i) {
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
        Ok(())
    }

    fn tokenizer(&self) -> Result<TokenizerFiles, SourceError> {
        self.source.tokenizer()
    }

    fn chat_template(&self) -> Option<&str> {
        self.source.chat_template()
    }

    fn generation(&self) -> &Generation {
        self.source.generation()
    }

    fn files(&self) -> &[SourceFile] {
        self.source.files()
    }

    fn notes(&self) -> &[String] {
        self.source.notes()
    }

    fn row_order(&self, tensor: usize) -> RowOrder {
        self.source.row_order(tensor)
    }

    fn is_balanced(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
