//! The numbers that make an architecture a model.
//!
//! [`Config`] is plain data in one spelling, whatever the source's was; it is also the form in the
//! container. [`HfConfig::parse`] reads a `config.json`; a value of [`Config`] that passed
//! [`Config::validate`] needs no further checks: every product of its sizes fits in `usize`.

mod error;
mod hf;
#[cfg(test)]
mod tests;
mod validate;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{TokenId, arch::ArchId};

pub use error::ConfigError;
pub use hf::HfConfig;
pub use validate::{
    MAX_EMBEDDING_DIM, MAX_EOS_IDS, MAX_FFN_DIM, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_SEQ_LEN,
    MAX_VOCAB,
};

/// A model's hyperparameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The architecture.
    pub arch: ArchId,
    /// Width of the hidden state.
    pub dim: usize,
    /// Width of the feed-forward network.
    pub ffn_dim: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head, even; `n_heads * head_dim` need not be `dim`.
    pub head_dim: usize,
    /// Tokens of the vocabulary: rows of the embedding matrix.
    pub vocab_size: usize,
    /// Positions that the weights were made for.
    pub max_seq_len: usize,
    /// What RMSNorm adds to the mean of the squares.
    pub norm_eps: f32,
    /// The base of RoPE's frequencies.
    pub rope_theta: f64,
    /// How RoPE's frequencies are scaled.
    pub rope_scaling: RopeScaling,
    /// Whether the output matrix is the embedding matrix.
    pub tied_embeddings: bool,
    /// Q, K and V have biases.
    pub qkv_bias: bool,
    /// Every head of Q and K passes an RMSNorm before RoPE.
    pub qk_norm: bool,
    /// Positions that a query of a windowed layer attends to, its own included; `None`: all.
    pub sliding_window: Option<usize>,
    /// The layers whose attention is windowed; `None`: all of them. Only with `sliding_window`.
    pub windowed_layers: Option<Vec<usize>>,
    /// The token that begins a text.
    pub bos_token_id: Option<TokenId>,
    /// The tokens that end one.
    pub eos_token_ids: Vec<TokenId>,
}

/// How RoPE's frequencies are scaled; see [`crate::rope::inv_freqs`] for the formulas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// As Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between them.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_seq_len / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_seq_len / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Positions before the context was extended.
        original_max_seq_len: usize,
    },
    /// Each divided by a factor of its own, as GGUF's `rope_freqs` tensor says.
    Factors {
        /// `[head_dim / 2]`.
        factors: Vec<f32>,
    },
}

impl Config {
    /// Reads a Hugging Face `config.json`; what was only noted is dropped, see [`HfConfig::parse`].
    ///
    /// # Errors
    ///
    /// Every field that changes the result is understood, or the error names it.
    pub fn from_hf(json: &serde_json::Value) -> Result<Self, ConfigError> {
        HfConfig::parse(json).map(|hf| hf.config)
    }

    /// Query heads that share one KV head.
    pub const fn gqa_group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Elements of all query heads: rows of Q, columns of the attention output matrix.
    pub const fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Elements of all key heads, and of all value heads.
    pub const fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The sliding window of layer `layer`, if it has one.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let windowed = self
            .windowed_layers
            .as_ref()
            .is_none_or(|l| l.contains(&layer));
        self.sliding_window.filter(|_| windowed)
    }

    /// The positions that the query at `pos` of layer `layer` attends to.
    pub fn attended(&self, layer: usize, pos: usize) -> Range<usize> {
        let start = self
            .window(layer)
            .map_or(0, |w| (pos + 1).saturating_sub(w));
        start..pos + 1
    }

    /// The factor of the attention scores: `1 / sqrt(head_dim)`, in f64 and rounded once.
    pub fn attn_scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }
}
