//! Architectures as data: what a description needs beyond the numbers of its config.
//!
//! All of them are the same decoder (RMSNorm, grouped-query attention with RoPE in half layout,
//! SwiGLU); an [`Arch`] says in which of the optional parts they differ and which defaults a missing
//! config field stands for. The defaults are those of transformers' configuration classes.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A supported architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchId {
    /// Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama.
    Llama,
    /// Mistral 7B and its relatives, with or without a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on Q, K and V.
    Qwen2,
    /// Qwen3: RMSNorm on every head of Q and K.
    Qwen3,
}

/// How a source's config says which layers attend to a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRule {
    /// Never; a `sliding_window` field is ignored, as transformers does.
    Never,
    /// `sliding_window` holds for every layer; when absent it is this many positions.
    Everywhere {
        /// What an absent field stands for.
        default: usize,
    },
    /// `sliding_window` holds if `use_sliding_window`, from layer `max_window_layers` on or for the
    /// layers that `layer_types` names.
    FromLayer {
        /// What an absent `sliding_window` stands for.
        default: usize,
        /// What an absent `max_window_layers` stands for.
        max_window_layers: usize,
    },
}

/// What is known of an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// Which one.
    pub id: ArchId,
    /// Name in our files: `llama`, `mistral`, `qwen2`, `qwen3`.
    pub name: &'static str,
    /// The class in `architectures` of a `config.json`.
    pub hf_class: &'static str,
    /// `model_type` of a `config.json`.
    pub model_type: &'static str,
    /// Q, K and V have biases.
    pub qkv_bias: bool,
    /// Every head of Q and K passes an RMSNorm of `head_dim` weights before RoPE.
    pub qk_norm: bool,
    /// The sliding window's rule.
    pub window: WindowRule,
    /// What an absent `head_dim` stands for; `None`: `hidden_size / num_attention_heads`.
    pub default_head_dim: Option<usize>,
    /// Whether an absent `num_key_value_heads` stands for `num_attention_heads`; else it is an error.
    pub kv_heads_optional: bool,
}

const WINDOW_BY_LAYER: WindowRule = WindowRule::FromLayer {
    default: 4096,
    max_window_layers: 28,
};

/// Every supported architecture, in the order of [`ArchId`].
pub static ARCHS: [Arch; 4] = [
    Arch {
        id: ArchId::Llama,
        name: "llama",
        hf_class: "LlamaForCausalLM",
        model_type: "llama",
        qkv_bias: false,
        qk_norm: false,
        window: WindowRule::Never,
        default_head_dim: None,
        kv_heads_optional: true,
    },
    Arch {
        id: ArchId::Mistral,
        name: "mistral",
        hf_class: "MistralForCausalLM",
        model_type: "mistral",
        qkv_bias: false,
        qk_norm: false,
        window: WindowRule::Everywhere { default: 4096 },
        default_head_dim: None,
        kv_heads_optional: false,
    },
    Arch {
        id: ArchId::Qwen2,
        name: "qwen2",
        hf_class: "Qwen2ForCausalLM",
        model_type: "qwen2",
        qkv_bias: true,
        qk_norm: false,
        window: WINDOW_BY_LAYER,
        default_head_dim: None,
        kv_heads_optional: false,
    },
    Arch {
        id: ArchId::Qwen3,
        name: "qwen3",
        hf_class: "Qwen3ForCausalLM",
        model_type: "qwen3",
        qkv_bias: false,
        qk_norm: true,
        window: WINDOW_BY_LAYER,
        default_head_dim: Some(128),
        kv_heads_optional: false,
    },
];

impl ArchId {
    /// Every architecture.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// What is known of it.
    pub fn arch(self) -> &'static Arch {
        &ARCHS[self as usize]
    }

    /// Its name in our files.
    pub fn name(self) -> &'static str {
        self.arch().name
    }

    /// The architecture whose class a `config.json` names in `architectures`.
    pub fn from_hf_class(class: &str) -> Option<Self> {
        ARCHS.iter().find(|a| a.hf_class == class).map(|a| a.id)
    }

    /// The architecture that a `config.json` names in `model_type`.
    pub fn from_model_type(model_type: &str) -> Option<Self> {
        ARCHS
            .iter()
            .find(|a| a.model_type == model_type)
            .map(|a| a.id)
    }
}

impl fmt::Display for ArchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no supported architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownArch {
    /// What was given.
    pub name: String,
}

impl fmt::Display for UnknownArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: String = self.name.chars().take(80).collect();
        write!(
            f,
            "unknown architecture `{}`, expected one of llama, mistral, qwen2, qwen3",
            name.escape_debug()
        )
    }
}

impl Error for UnknownArch {}

impl FromStr for ArchId {
    type Err = UnknownArch;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        ARCHS
            .iter()
            .find(|a| a.name == s)
            .map(|a| a.id)
            .ok_or_else(|| UnknownArch { name: s.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_ids_and_names_round_trip() {
        for (id, arch) in ArchId::ALL.into_iter().zip(&ARCHS) {
            assert_eq!(id.arch(), arch);
            assert_eq!(arch.id, id);
            assert_eq!(arch.name.parse(), Ok(id));
            assert_eq!(ArchId::from_hf_class(arch.hf_class), Some(id));
            assert_eq!(ArchId::from_model_type(arch.model_type), Some(id));
            assert_eq!(serde_json::to_value(id).unwrap(), arch.name);
        }
        assert!(
            "gpt2"
                .parse::<ArchId>()
                .unwrap_err()
                .to_string()
                .contains("`gpt2`")
        );
    }
}
