//! The tiny models.

use serde_json::{Value, json};

use crate::{Config, config::HfConfig};

/// A tiny model. Between them they have every feature that an architecture may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Grouped queries, tied embeddings.
    Llama,
    /// Own output matrix, one KV head, no size a multiple of 32, heads no multiple of 16.
    LlamaUntied,
    /// Llama 3.1's RoPE scaling; all three of its ranges occur.
    Llama3Scaled,
    /// Linear RoPE scaling.
    LinearScaled,
    /// A factor for each frequency, as GGUF stores Llama 3.1's scaling.
    Factors,
    /// A sliding window of 24 positions in every layer.
    Mistral,
    /// Biases on Q, K and V.
    Qwen2,
    /// The same with a sliding window of 40 positions from layer 1 on.
    Qwen2Window,
    /// QK-norm, `n_heads * head_dim` twice `dim`.
    Qwen3,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::LlamaUntied,
        Self::Llama3Scaled,
        Self::LinearScaled,
        Self::Factors,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen2Window,
        Self::Qwen3,
    ];

    /// A name for files: `llama-untied`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::LlamaUntied => "llama-untied",
            Self::Llama3Scaled => "llama3-scaled",
            Self::LinearScaled => "linear-scaled",
            Self::Factors => "factors",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Window => "qwen2-window",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The seed of its weights.
    pub const fn seed(self) -> u64 {
        1000 + self as u64
    }

    /// Its config.
    ///
    /// # Panics
    ///
    /// Never: the documents are fixed.
    pub fn config(self) -> Config {
        match HfConfig::parse(&self.hf_config()) {
            Ok(hf) => hf.config,
            Err(error) => panic!("{}: {error}", self.name()),
        }
    }

    /// Its `config.json`.
    pub fn hf_config(self) -> Value {
        let (class, model_type) = match self {
            Self::Mistral => ("MistralForCausalLM", "mistral"),
            Self::Qwen2 | Self::Qwen2Window => ("Qwen2ForCausalLM", "qwen2"),
            Self::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            _ => ("LlamaForCausalLM", "llama"),
        };
        let mut json = json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 320,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": null,
            "tie_word_embeddings": true,
            "bos_token_id": 312,
            "eos_token_id": 313,
            "torch_dtype": "float32",
        });
        for (field, value) in self.changes() {
            json[field] = value;
        }
        json
    }

    fn changes(self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Llama => vec![],
            Self::LlamaUntied => vec![
                ("tie_word_embeddings", json!(false)),
                ("hidden_size", json!(72)),
                ("intermediate_size", json!(100)),
                ("num_hidden_layers", json!(3)),
                ("num_attention_heads", json!(3)),
                ("num_key_value_heads", json!(1)),
                ("vocab_size", json!(330)),
            ],
            Self::Llama3Scaled => vec![
                ("rope_theta", json!(500_000.0)),
                (
                    "rope_scaling",
                    json!({
                        "rope_type": "llama3",
                        "factor": 8.0,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 128,
                    }),
                ),
                ("eos_token_id", json!([313, 314])),
            ],
            Self::LinearScaled => {
                vec![("rope_scaling", json!({"type": "linear", "factor": 4.0}))]
            }
            Self::Factors => vec![(
                "rope_scaling",
                json!({
                    "rope_type": "factors",
                    "factors": [1.0, 1.0, 1.25, 1.75, 3.0, 4.5, 8.0, 8.0],
                }),
            )],
            Self::Mistral => vec![
                ("hidden_size", json!(96)),
                ("num_attention_heads", json!(6)),
                ("intermediate_size", json!(128)),
                ("sliding_window", json!(24)),
                ("tie_word_embeddings", json!(false)),
            ],
            Self::Qwen2 => {
                vec![
                    ("rms_norm_eps", json!(1e-6)),
                    ("rope_theta", json!(1_000_000.0)),
                ]
            }
            Self::Qwen2Window => vec![
                ("num_hidden_layers", json!(3)),
                ("use_sliding_window", json!(true)),
                ("sliding_window", json!(40)),
                ("max_window_layers", json!(1)),
            ],
            Self::Qwen3 => vec![
                ("head_dim", json!(32)),
                ("rms_norm_eps", json!(1e-6)),
                ("rope_theta", json!(1_000_000.0)),
                ("attention_bias", json!(false)),
                ("tie_word_embeddings", json!(false)),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::inv_freqs;

    #[test]
    fn the_variants_have_what_they_are_named_for() {
        for v in Variant::ALL {
            assert_eq!(
                HfConfig::parse(&v.hf_config()).unwrap().notes,
                Vec::<String>::new()
            );
        }
        assert_eq!(Variant::Mistral.config().window(0), Some(24));
        let windowed = Variant::Qwen2Window.config();
        assert_eq!(
            [0, 1, 2].map(|l| windowed.window(l)),
            [None, Some(40), Some(40)]
        );
        assert!(Variant::Qwen2.config().qkv_bias && Variant::Qwen3.config().qk_norm);
        assert_eq!(Variant::Qwen3.config().q_dim(), 128);
        assert_eq!(Variant::LlamaUntied.config().head_dim, 24);
        let scaled = inv_freqs(&Variant::Llama3Scaled.config());
        let mut plain = Variant::Llama3Scaled.config();
        plain.rope_scaling = crate::RopeScaling::None;
        let ratios: Vec<_> = inv_freqs(&plain)
            .iter()
            .zip(&scaled)
            .map(|(p, s)| p / s)
            .collect();
        assert_eq!(ratios[0], 1.0);
        assert!(ratios.iter().any(|r| *r > 1.01 && *r < 7.99), "{ratios:?}");
        assert_eq!(ratios[7], 8.0);
    }
}
