//! Keys that say what the model is.

use super::{
    Case, check,
    models::{small, tiny},
    open,
    writer::{F32, array, boolean, float, floats, int, ints, long, text, uint},
};
use chaski_convert::source::Source;
use chaski_models::testing::Variant;

#[test]
fn what_the_model_needs_is_there_and_of_its_type() {
    check(
        &small(),
        &[
            Case {
                name: "architecture: absent",
                change: |f| f.remove("general.architecture"),
                says: &["key `general.architecture` is missing"],
            },
            Case {
                name: "architecture: unknown",
                change: |f| f.set("general.architecture", text("mamba")),
                says: &["key `general.architecture` is mamba, expected llama, qwen2 or qwen3"],
            },
            Case {
                name: "architecture: a number",
                change: |f| f.set("general.architecture", uint(1)),
                says: &["key `general.architecture` is 1, expected a text"],
            },
            Case {
                name: "width: absent",
                change: |f| f.remove("llama.embedding_length"),
                says: &["key `llama.embedding_length` is missing: expected a whole number"],
            },
            Case {
                name: "width: negative",
                change: |f| f.set("llama.embedding_length", int(-4)),
                says: &["key `llama.embedding_length` is -4"],
            },
            Case {
                name: "width: 0",
                change: |f| f.set("llama.embedding_length", uint(0)),
                says: &["llama.", "0"],
            },
            Case {
                name: "width: not the tensors'",
                change: |f| f.set("llama.embedding_length", uint(8)),
                says: &["token_embd.weight"],
            },
            Case {
                name: "width: largest",
                change: |f| f.set("llama.embedding_length", long(u64::MAX - 1)),
                says: &["llama.embedding_length"],
            },
            Case {
                name: "layers: 0",
                change: |f| f.set("llama.block_count", uint(0)),
                says: &["llama.block_count"],
            },
            Case {
                name: "layers: largest",
                change: |f| f.set("llama.block_count", uint(u32::MAX)),
                says: &["llama.block_count"],
            },
            Case {
                name: "layers: one more than there are",
                change: |f| f.set("llama.block_count", uint(2)),
                says: &["blk.1.attn_norm.weight"],
            },
            Case {
                name: "heads: 0",
                change: |f| f.set("llama.attention.head_count", uint(0)),
                says: &["key `llama.attention.head_count` is 0"],
            },
            Case {
                name: "heads: no divisor",
                change: |f| f.set("llama.attention.head_count", uint(3)),
                says: &[
                    "key `llama.attention.head_count` is 3, expected a divisor of llama.embedding_length",
                ],
            },
            Case {
                name: "KV heads: 0",
                change: |f| f.set("llama.attention.head_count_kv", uint(0)),
                says: &["llama.attention.head_count_kv"],
            },
            Case {
                name: "KV heads: other ones in other layers",
                change: |f| f.set("llama.attention.head_count_kv", ints(&[1, 2])),
                says: &["key `llama.attention.head_count_kv` is an array with 1 and 2"],
            },
            Case {
                name: "KV heads: an empty array",
                change: |f| f.set("llama.attention.head_count_kv", ints(&[])),
                says: &["key `llama.attention.head_count_kv` is an array of 0"],
            },
            Case {
                name: "KV heads: an array of floats",
                change: |f| f.set("llama.attention.head_count_kv", floats(&[1.0])),
                says: &["key `llama.attention.head_count_kv[0]` is 1, expected one whole number"],
            },
            Case {
                name: "head length: odd",
                change: |f| f.set("llama.attention.key_length", uint(3)),
                says: &["llama.attention."],
            },
            Case {
                name: "head length: not that of values",
                change: |f| f.set("llama.attention.value_length", uint(4)),
                says: &["key `llama.attention.value_length` is 4, expected 2, the length of keys"],
            },
            Case {
                name: "rotated: a part of the head",
                change: |f| f.set("llama.rope.dimension_count", uint(1)),
                says: &["key `llama.rope.dimension_count` is 1, expected 2"],
            },
            Case {
                name: "epsilon: absent",
                change: |f| f.remove("llama.attention.layer_norm_rms_epsilon"),
                says: &["key `llama.attention.layer_norm_rms_epsilon` is missing"],
            },
            Case {
                name: "epsilon: not a number",
                change: |f| f.set("llama.attention.layer_norm_rms_epsilon", float(f32::NAN)),
                says: &[
                    "key `llama.attention.layer_norm_rms_epsilon` is NaN, expected a finite number",
                ],
            },
            Case {
                name: "epsilon: negative",
                change: |f| f.set("llama.attention.layer_norm_rms_epsilon", float(-1.0)),
                says: &["llama.attention.layer_norm_rms_epsilon"],
            },
            Case {
                name: "theta: infinite",
                change: |f| f.set("llama.rope.freq_base", float(f32::INFINITY)),
                says: &["key `llama.rope.freq_base` is inf"],
            },
            Case {
                name: "theta: 0",
                change: |f| f.set("llama.rope.freq_base", float(0.0)),
                says: &["llama.rope.freq_base"],
            },
            Case {
                name: "vocabulary: not the embeddings'",
                change: |f| f.set("llama.vocab_size", uint(7)),
                says: &["key `llama.vocab_size` is 7, expected 6, the rows of token_embd.weight"],
            },
            Case {
                name: "RoPE scaling: unknown",
                change: |f| f.set("llama.rope.scaling.type", text("yarn")),
                says: &["key `llama.rope.scaling.type` is yarn, expected none or linear"],
            },
            Case {
                name: "experts",
                change: |f| f.set("llama.expert_count", uint(8)),
                says: &[
                    "key `llama.expert_count` is 8, expected 0; mixtures of experts are not implemented",
                ],
            },
            Case {
                name: "soft capping",
                change: |f| f.set("llama.final_logit_softcapping", float(30.0)),
                says: &["key `llama.final_logit_softcapping` is 30"],
            },
            Case {
                name: "attention that is not causal",
                change: |f| f.set("llama.attention.causal", boolean(false)),
                says: &["key `llama.attention.causal` is false, expected 1"],
            },
            Case {
                name: "a part of a model",
                change: |f| f.set("split.count", uint(3)),
                says: &["key `split.count` is 3, expected 1; this file is one part of several"],
            },
            Case {
                name: "an adapter",
                change: |f| f.set("general.type", text("adapter")),
                says: &["key `general.type` is adapter, expected model"],
            },
            Case {
                name: "blocks of an older layout",
                change: |f| f.set("general.quantization_version", uint(1)),
                says: &["key `general.quantization_version` is 1, expected 2"],
            },
            Case {
                name: "temperature: negative",
                change: |f| f.set("general.sampling.temp", float(-1.0)),
                says: &["key `general.sampling.temp` is -1"],
            },
            Case {
                name: "top-k: beyond 32 bits",
                change: |f| f.set("general.sampling.top_k", long(1 << 32)),
                says: &["key `general.sampling.top_k` is 4294967296"],
            },
            Case {
                name: "chat template: an array",
                change: |f| f.set("tokenizer.chat_template", array(F32, 0, &[])),
                says: &["key `tokenizer.chat_template` is an array of 0, expected a text"],
            },
        ],
    );
}

#[test]
fn factors_of_rope_fit_the_head() {
    use super::writer::{Tensor, raw};
    check(
        &small(),
        &[
            Case {
                name: "a matrix",
                change: |f| {
                    let data = vec![0; 16];
                    f.tensors
                        .push(Tensor::new("rope_freqs.weight", &[2, 2], 0, data));
                },
                says: &[
                    "tensor `rope_freqs.weight`",
                    "a vector of half a head's length",
                ],
            },
            Case {
                name: "too many",
                change: |f| {
                    let data = [0, 0, 0, 0x40].repeat(2);
                    f.tensors
                        .push(Tensor::new("rope_freqs.weight", &[2], 0, data));
                },
                says: &["rope_freqs.weight"],
            },
            Case {
                name: "0",
                change: |f| {
                    f.tensors
                        .push(Tensor::new("rope_freqs.weight", &[1], 0, vec![0; 4]))
                },
                says: &["rope_freqs.weight"],
            },
            Case {
                name: "not a number",
                change: |f| {
                    let nan = f32::NAN.to_le_bytes().to_vec();
                    f.tensors
                        .push(Tensor::new("rope_freqs.weight", &[1], 0, nan));
                },
                says: &["rope_freqs.weight"],
            },
            Case {
                name: "beside linear scaling",
                change: |f| {
                    let two = 2.0_f32.to_le_bytes().to_vec();
                    f.tensors
                        .push(Tensor::new("rope_freqs.weight", &[1], 0, two));
                    f.set(
                        "llama.rope.scaling.factor",
                        raw(F32, &4.0_f32.to_le_bytes()),
                    );
                },
                says: &["key `llama.rope.scaling.factor` is 4", "rope_freqs.weight"],
            },
            Case {
                name: "long and short ones",
                change: |f| {
                    let one = 1.0_f32.to_le_bytes().to_vec();
                    f.tensors
                        .push(Tensor::new("rope_factors_long.weight", &[1], 0, one));
                },
                says: &["key `llama.rope.scaling.type`", "rope_factors_long.weight"],
            },
        ],
    );
}

#[test]
fn a_window_that_may_hold_for_some_layers_only_is_refused() {
    let got = open(tiny(Variant::Qwen2Window).bytes()).unwrap_err();
    assert!(
        got.contains("key `qwen2.attention.sliding_window` is 40"),
        "{got}"
    );
}

#[test]
fn keys_without_effect_are_told() {
    let mut file = small();
    file.set("llama.some_new_thing", uint(1));
    file.set("someone.elses", uint(1));
    file.remove("llama.rope.freq_base");
    let source = open(file.bytes()).unwrap();
    let notes = source.notes();
    assert!(
        notes.iter().any(|n| n.contains("llama.some_new_thing")),
        "{notes:?}"
    );
    assert!(
        notes.iter().any(|n| n.contains("llama.rope.freq_base")),
        "{notes:?}"
    );
    assert!(!notes.iter().any(|n| n.contains("someone")), "{notes:?}");
}
