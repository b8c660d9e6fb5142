//! The fields of a `config.json` that are not numbers of ours: refused, or without effect.

use serde_json::Value;

/// A value under which a field changes nothing. `null` always is one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Neutral {
    /// Only `null`.
    Null,
    /// `false`.
    False,
    /// 0.
    Zero,
    /// 1.
    One,
    /// `[]`, `{}`.
    Empty,
}

impl Neutral {
    pub(super) fn holds(self, value: &Value) -> bool {
        let number = |n: f64| value.as_f64() == Some(n);
        value.is_null()
            || match self {
                Self::Null => false,
                Self::False => value == &Value::Bool(false),
                Self::Zero => number(0.0),
                Self::One => number(1.0),
                Self::Empty => {
                    value.as_array().is_some_and(Vec::is_empty)
                        || value.as_object().is_some_and(serde_json::Map::is_empty)
                }
            }
    }

    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::Null => "no value",
            Self::False => "false",
            Self::Zero => "0",
            Self::One => "1",
            Self::Empty => "an empty list",
        }
    }
}

const QUANTIZED: &str = "this checkpoint is already quantised: convert the original one";
const EXPERTS: &str = "mixtures of experts are not implemented";
const NOT_TEXT: &str = "only text models with one decoder are implemented";
const SCALE: &str = "scaled or capped activations are not implemented";
const ROPE: &str = "this form of RoPE is not implemented";
const BIAS: &str = "this bias is not implemented";
const ATTENTION: &str = "this form of attention is not implemented";
const NORM: &str = "this form of normalisation is not implemented";

/// Fields that change the result: any other than the neutral value is an error.
pub(super) const REFUSED: &[(&str, Neutral, &str)] = &[
    ("add_cross_attention", Neutral::False, NOT_TEXT),
    ("alibi", Neutral::False, ROPE),
    ("attention_chunk_size", Neutral::Null, ATTENTION),
    ("attention_multiplier", Neutral::Null, SCALE),
    ("attention_out_bias", Neutral::False, BIAS),
    ("attn_logit_softcapping", Neutral::Null, SCALE),
    ("audio_config", Neutral::Null, NOT_TEXT),
    ("bias", Neutral::False, BIAS),
    ("clip_qkv", Neutral::Null, ATTENTION),
    ("compression_config", Neutral::Null, QUANTIZED),
    ("cross_attention_hidden_size", Neutral::Null, NOT_TEXT),
    ("dim_model_base", Neutral::Null, SCALE),
    ("embedding_multiplier", Neutral::One, SCALE),
    ("final_logit_softcapping", Neutral::Null, SCALE),
    ("is_encoder_decoder", Neutral::False, NOT_TEXT),
    ("kv_lora_rank", Neutral::Null, ATTENTION),
    ("logit_scale", Neutral::One, SCALE),
    ("logits_scaling", Neutral::One, SCALE),
    ("mlp_bias", Neutral::False, BIAS),
    ("moe_intermediate_size", Neutral::Null, EXPERTS),
    ("n_routed_experts", Neutral::Zero, EXPERTS),
    ("no_rope_layer_interval", Neutral::Null, ROPE),
    ("no_rope_layers", Neutral::Empty, ROPE),
    ("num_experts", Neutral::Zero, EXPERTS),
    ("num_local_experts", Neutral::Zero, EXPERTS),
    (
        "num_nextn_predict_layers",
        Neutral::Zero,
        "layers that predict ahead are not implemented",
    ),
    ("parallel_attn", Neutral::False, ATTENTION),
    ("partial_rotary_factor", Neutral::One, ROPE),
    ("pruned_heads", Neutral::Empty, ATTENTION),
    ("q_lora_rank", Neutral::Null, ATTENTION),
    ("qk_layernorm", Neutral::False, NORM),
    ("quantization_config", Neutral::Null, QUANTIZED),
    ("query_pre_attn_scalar", Neutral::Null, SCALE),
    ("residual_multiplier", Neutral::One, SCALE),
    ("rms_norm_add_unit_offset", Neutral::False, NORM),
    ("rope_interleave", Neutral::False, ROPE),
    ("rope_interleaved", Neutral::False, ROPE),
    ("rope_local_base_freq", Neutral::Null, ROPE),
    ("rotary_emb_fraction", Neutral::One, ROPE),
    ("rotary_pct", Neutral::One, ROPE),
    ("scale_depth", Neutral::Null, SCALE),
    ("scale_emb", Neutral::One, SCALE),
    ("sliding_window_pattern", Neutral::Null, ATTENTION),
    ("text_config", Neutral::Null, NOT_TEXT),
    ("tie_encoder_decoder", Neutral::False, NOT_TEXT),
    ("use_bias", Neutral::False, BIAS),
    ("use_mrope", Neutral::False, ROPE),
    ("use_parallel_residual", Neutral::False, ATTENTION),
    ("use_qk_norm", Neutral::False, NORM),
    ("vision_config", Neutral::Null, NOT_TEXT),
];

/// Fields that [`super`] reads.
pub(super) const READ: &[&str] = &[
    "architectures",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// Fields that do not change the logits of a text, so that they are not even noted: training,
/// bookkeeping, and defaults of generation that `generation_config.json` overrides.
pub(super) const NO_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_disjoint() {
        let refused: Vec<_> = REFUSED.iter().map(|r| r.0).collect();
        for list in [&refused[..], READ, NO_EFFECT] {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        }
        let mut all: Vec<_> = [&refused[..], READ, NO_EFFECT].concat();
        let n = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), n, "a field stands in two lists");
    }
}
