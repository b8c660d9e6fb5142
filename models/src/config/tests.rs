use serde_json::{Value, json};

use super::*;

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    })
}

fn of(class: &str, model_type: &str) -> Value {
    with(
        llama(),
        &[
            ("architectures", json!([class])),
            ("model_type", json!(model_type)),
        ],
    )
}

fn qwen3() -> Value {
    with(of("Qwen3ForCausalLM", "qwen3"), &[("head_dim", json!(16))])
}

fn with(mut json: Value, fields: &[(&str, Value)]) -> Value {
    for (field, value) in fields {
        json[field] = value.clone();
    }
    json
}

fn without(mut json: Value, field: &str) -> Value {
    json.as_object_mut().unwrap().remove(field).unwrap();
    json
}

fn notes(json: &Value) -> Vec<String> {
    HfConfig::parse(json).unwrap().notes
}

#[test]
fn known_models_are_understood() {
    // The fields of the published files that matter, and those that could be mistaken for such.
    let llama_3_2 = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256
    });
    let hf = HfConfig::parse(&llama_3_2).unwrap();
    assert_eq!(hf.notes, Vec::<String>::new());
    let want = Config {
        arch: ArchId::Llama,
        dim: 2048,
        ffn_dim: 8192,
        n_layers: 16,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        vocab_size: 128_256,
        max_seq_len: 131_072,
        norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_seq_len: 8192,
        },
        tied_embeddings: true,
        qkv_bias: false,
        qk_norm: false,
        sliding_window: None,
        windowed_layers: None,
        bos_token_id: Some(TokenId(128_000)),
        eos_token_ids: vec![TokenId(128_001), TokenId(128_008), TokenId(128_009)],
    };
    assert_eq!(hf.config, want);

    let llama_2 = json!({
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 32000
    });
    let hf = HfConfig::parse(&llama_2).unwrap();
    assert_eq!(hf.config.rope_theta, 10_000.0);
    assert_eq!(hf.notes.len(), 1, "{:?}", hf.notes);
    assert!(hf.notes[0].contains("`rope_theta` is absent"));

    let smollm2 = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
        "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
        "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
        "tie_word_embeddings": true, "transformers.js_config": {"kv_cache_dtype": {}},
        "vocab_size": 49152
    });
    let hf = HfConfig::parse(&smollm2).unwrap();
    assert_eq!(
        (hf.config.head_dim, hf.config.rope_theta, hf.notes.len()),
        (64, 1e5, 0)
    );

    let mistral_7b = json!({
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
        "vocab_size": 32000
    });
    let config = Config::from_hf(&mistral_7b).unwrap();
    assert_eq!(
        (config.window(0), config.window(31)),
        (Some(4096), Some(4096))
    );
    let v3 = with(
        mistral_7b,
        &[("sliding_window", Value::Null), ("rope_theta", json!(1e6))],
    );
    assert_eq!(Config::from_hf(&v3).unwrap().sliding_window, None);

    let qwen2_5 = json!({
        "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151645,
        "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": true, "use_mrope": false, "use_sliding_window": false,
        "vocab_size": 151936
    });
    let hf = HfConfig::parse(&qwen2_5).unwrap();
    assert!(hf.config.qkv_bias && hf.config.sliding_window.is_none() && hf.notes.is_empty());

    let qwen3 = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
        "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
        "use_sliding_window": false, "vocab_size": 151936
    });
    let config = Config::from_hf(&qwen3).unwrap();
    assert!(config.qk_norm && !config.qkv_bias);
    assert_eq!(
        (config.q_dim(), config.kv_dim(), config.gqa_group()),
        (2048, 1024, 2)
    );
}

#[test]
fn what_changes_the_result_and_is_not_implemented_is_named() {
    let scaling = |kind: &str| json!({"rope_type": kind, "factor": 4.0});
    let llama3 = |field: &str, value: Value| {
        let mut scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        scaling[field] = value;
        scaling
    };
    let cases = [
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("hidden_activation", json!("relu"), "hidden_activation"),
        ("attention_bias", json!(true), "attention_bias"),
        ("mlp_bias", json!(true), "mlp_bias"),
        ("rope_scaling", scaling("yarn"), "rope_scaling.rope_type"),
        ("rope_scaling", scaling("dynamic"), "rope_scaling.rope_type"),
        (
            "rope_scaling",
            scaling("longrope"),
            "rope_scaling.rope_type",
        ),
        ("rope_scaling", json!({"type": "yarn"}), "rope_scaling.type"),
        (
            "rope_scaling",
            json!({"type": "linear", "rope_type": "llama3"}),
            "rope_scaling.type",
        ),
        (
            "rope_scaling",
            json!({"factor": 4.0}),
            "rope_scaling.rope_type",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear"}),
            "rope_scaling.factor",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 0}),
            "rope_scaling.factor",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": "2"}),
            "rope_scaling.factor",
        ),
        (
            "rope_scaling",
            llama3("mrope_section", json!([8])),
            "rope_scaling.mrope_section",
        ),
        (
            "rope_scaling",
            llama3("partial_rotary_factor", json!(0.5)),
            "rope_scaling.partial_rotary_factor",
        ),
        (
            "rope_scaling",
            llama3("high_freq_factor", json!(1.0)),
            "rope_scaling.high_freq_factor",
        ),
        (
            "rope_scaling",
            llama3("original_max_position_embeddings", json!(0)),
            "rope_scaling.original_max_position_embeddings",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "factors", "factors": [1, 2]}),
            "rope_scaling.factors",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "factors", "factors": [1, 1, 1, 1, 1, 1, 1, 0]}),
            "rope_scaling.factors[7]",
        ),
        ("rope_scaling", json!("linear"), "rope_scaling"),
        (
            "rope_parameters",
            scaling("yarn"),
            "rope_parameters.rope_type",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": 5e5}),
            "rope_theta",
        ),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("logit_scale", json!(0.0625), "logit_scale"),
        (
            "final_logit_softcapping",
            json!(30.0),
            "final_logit_softcapping",
        ),
        (
            "attn_logit_softcapping",
            json!(50.0),
            "attn_logit_softcapping",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "quantization_config",
        ),
        ("num_experts", json!(8), "num_experts"),
        ("num_local_experts", json!(8), "num_local_experts"),
        (
            "layer_types",
            json!(vec!["full_attention"; 3]),
            "layer_types",
        ),
        (
            "layer_types",
            json!(["full_attention", "linear_attention", "x", "y"]),
            "layer_types[1]",
        ),
        (
            "layer_types",
            json!(vec!["sliding_attention"; 4]),
            "layer_types",
        ),
        ("vision_config", json!({}), "vision_config"),
        (
            "architectures",
            json!(["Gemma2ForCausalLM"]),
            "architectures",
        ),
        (
            "architectures",
            json!(["LlamaForCausalLM", "Other"]),
            "architectures",
        ),
        ("architectures", json!("LlamaForCausalLM"), "architectures"),
        ("model_type", json!("mistral"), "model_type"),
    ];
    for (field, value, want) in cases {
        let json = with(llama(), &[(field, value)]);
        let error = HfConfig::parse(&json).unwrap_err();
        assert_eq!(error.field(), want, "{error}");
        assert!(error.to_string().contains(&format!("`{want}`")), "{error}");
    }
    let qwen2 = of("Qwen2ForCausalLM", "qwen2");
    assert!(Config::from_hf(&with(qwen2.clone(), &[("attention_bias", json!(true))])).is_ok());
    let error = Config::from_hf(&with(qwen2, &[("attention_bias", json!(false))])).unwrap_err();
    assert_eq!(error.field(), "attention_bias");
}

#[test]
fn neutral_values_of_refused_fields_pass_without_a_note() {
    let json = with(
        llama(),
        &[
            ("hidden_act", json!("swish")),
            ("quantization_config", Value::Null),
            ("partial_rotary_factor", json!(1.0)),
            ("logit_scale", json!(1)),
            ("num_experts", json!(0)),
            ("pruned_heads", json!({})),
            ("use_mrope", json!(false)),
            ("layer_types", json!(vec!["full_attention"; 4])),
            ("rope_scaling", json!({"rope_type": "default"})),
        ],
    );
    assert_eq!(HfConfig::parse(&json), HfConfig::parse(&llama()));
}

#[test]
fn what_is_not_known_or_stands_in_is_noted() {
    let json = with(
        llama(),
        &[
            ("frobnicate\u{1b}[2J", json!(7)),
            ("pretraining_tp", json!(2)),
        ],
    );
    let notes_found = notes(&json);
    assert_eq!(notes_found.len(), 2, "{notes_found:?}");
    assert!(notes_found[0].contains("pretraining_tp"));
    assert!(notes_found[1].contains("frobnicate") && !notes_found[1].contains('\u{1b}'));
    assert!(notes(&without(llama(), "rms_norm_eps"))[0].contains("1e-6"));
    assert!(notes(&without(llama(), "architectures"))[0].contains("LlamaForCausalLM"));
    assert!(notes(&with(llama(), &[("sliding_window", json!(5))]))[0].contains("no effect"));
    let mistral = HfConfig::parse(&of("MistralForCausalLM", "mistral")).unwrap();
    assert_eq!(mistral.config.sliding_window, Some(4096));
    assert!(mistral.notes[0].contains("`sliding_window` is absent"));
    let qwen3 = HfConfig::parse(&of("Qwen3ForCausalLM", "qwen3")).unwrap();
    assert_eq!(qwen3.config.head_dim, 128);
    assert!(qwen3.notes[0].contains("`head_dim` is absent"));
}

#[test]
fn absent_sizes_are_an_error_or_the_default_of_the_architecture() {
    for field in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for json in [
            without(llama(), field),
            with(llama(), &[(field, Value::Null)]),
        ] {
            let error = Config::from_hf(&json).unwrap_err();
            assert!(matches!(error, ConfigError::Missing { .. }), "{error}");
            assert_eq!(error.field(), field);
        }
    }
    let config = Config::from_hf(&without(llama(), "num_key_value_heads")).unwrap();
    assert_eq!(config.n_kv_heads, 4);
    let error = Config::from_hf(&without(qwen3(), "num_key_value_heads")).unwrap_err();
    assert_eq!(error.field(), "num_key_value_heads");
    let config = Config::from_hf(&with(llama(), &[("head_dim", Value::Null)])).unwrap();
    assert_eq!(config.head_dim, 16);
    assert!(!config.tied_embeddings);
}

#[test]
fn hostile_sizes_are_refused() {
    let cases = [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(64.5)),
        ("hidden_size", json!("64")),
        ("intermediate_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(4097)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(5)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(8)),
        ("head_dim", json!(15)),
        ("head_dim", json!(0)),
        ("head_dim", json!(1_u64 << 40)),
        ("vocab_size", json!(1_u64 << 40)),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!(1e300)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(1e300)),
        ("rope_theta", json!(-10000)),
        ("bos_token_id", json!(320)),
        ("eos_token_id", json!([1, 320])),
        ("eos_token_id", json!(-1)),
        ("eos_token_id", json!(vec![1; 65])),
        ("tie_word_embeddings", json!(1)),
    ];
    for (field, value) in cases {
        let error = Config::from_hf(&with(llama(), &[(field, value)])).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
    }
    for json in [json!(null), json!([]), json!("x".repeat(1000))] {
        let error = Config::from_hf(&json).unwrap_err();
        assert!(matches!(error, ConfigError::NotAnObject { .. }));
        assert!(error.to_string().len() < 200, "{error}");
    }
    let long = with(
        llama(),
        &[("hidden_act", json!("\u{202e}\u{1b}]".repeat(1000)))],
    );
    let shown = Config::from_hf(&long).unwrap_err().to_string();
    assert!(
        shown.len() < 1200 && !shown.contains(['\u{1b}', '\u{202e}']),
        "{shown}"
    );
}

#[test]
fn windows_follow_transformers() {
    let windows = |fields: &[(&str, Value)]| {
        let config = Config::from_hf(&with(qwen3(), fields)).unwrap();
        (0..4).map(|l| config.window(l)).collect::<Vec<_>>()
    };
    let window = ("sliding_window", json!(7));
    let on = ("use_sliding_window", json!(true));
    assert_eq!(windows(std::slice::from_ref(&window)), [None; 4]);
    let from = ("max_window_layers", json!(3));
    let got = windows(&[window.clone(), on.clone(), from.clone()]);
    assert_eq!(got, [None, None, None, Some(7)]);
    // The default of `max_window_layers` is past the last layer.
    assert_eq!(windows(&[window.clone(), on.clone()]), [None; 4]);
    let all = ("max_window_layers", json!(0));
    assert_eq!(windows(&[window.clone(), on.clone(), all]), [Some(7); 4]);
    let kinds = [
        "full_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ];
    let types = ("layer_types", json!(kinds));
    let got = windows(&[window.clone(), on.clone(), from, types.clone()]);
    assert_eq!(got, [None, Some(7), None, Some(7)]);
    let off = with(qwen3(), &[window, types]);
    assert_eq!(Config::from_hf(&off).unwrap_err().field(), "layer_types");

    let config = Config::from_hf(&with(
        of("MistralForCausalLM", "mistral"),
        &[("sliding_window", json!(24))],
    ));
    let config = config.unwrap();
    assert_eq!(config.attended(0, 10), 0..11);
    assert_eq!(config.attended(0, 23), 0..24);
    assert_eq!(config.attended(0, 24), 1..25);
}

#[test]
fn rope_parameters_are_read_as_rope_scaling_is() {
    let old = with(
        llama(),
        &[
            ("rope_theta", json!(5e5)),
            (
                "rope_scaling",
                json!({"rope_type": "linear", "factor": 2.0}),
            ),
        ],
    );
    let new = with(
        without(llama(), "rope_theta"),
        &[(
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}),
        )],
    );
    assert_eq!(HfConfig::parse(&old), HfConfig::parse(&new));
    let both = with(
        new,
        &[(
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 4.0}),
        )],
    );
    assert_eq!(Config::from_hf(&both).unwrap_err().field(), "rope_scaling");
}

#[test]
fn a_config_survives_json_and_its_own_form_is_strict() {
    for json in [llama(), qwen3(), of("Qwen2ForCausalLM", "qwen2")] {
        for scaling in [
            Value::Null,
            json!({"rope_type": "linear", "factor": 2.7}),
            json!({"rope_type": "factors", "factors": [1.1, 1, 1, 1, 1, 1, 1, 0.3]}),
        ] {
            let config = Config::from_hf(&with(json.clone(), &[("rope_scaling", scaling)]));
            let config = config.unwrap();
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(
                serde_json::from_str::<Config>(&text).unwrap(),
                config,
                "{text}"
            );
        }
    }
    let mut value = serde_json::to_value(Config::from_hf(&llama()).unwrap()).unwrap();
    value["extra"] = json!(1);
    let error = serde_json::from_value::<Config>(value.clone())
        .unwrap_err()
        .to_string();
    assert!(error.contains("extra"), "{error}");
    value.as_object_mut().unwrap().remove("extra");
    for strange in [
        json!({"none": {"factor": 2}}),
        json!({"linear": {"factor": 2, "x": 1}}),
    ] {
        value["rope_scaling"] = strange;
        assert!(
            serde_json::from_value::<Config>(value.clone()).is_err(),
            "{value}"
        );
    }
}

#[test]
fn contradictions_between_our_own_fields_are_found() {
    let config = Config::from_hf(&llama()).unwrap();
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 8] = [
        ("qkv_bias", |c| c.qkv_bias = true),
        ("qk_norm", |c| c.qk_norm = true),
        ("windowed_layers", |c| c.windowed_layers = Some(vec![0])),
        ("windowed_layers", |c| {
            (c.sliding_window, c.windowed_layers) = (Some(4), Some(vec![4]));
        }),
        ("windowed_layers", |c| {
            (c.sliding_window, c.windowed_layers) = (Some(4), Some(vec![1, 1]));
        }),
        ("sliding_window", |c| c.sliding_window = Some(0)),
        ("norm_eps", |c| c.norm_eps = f32::NAN),
        ("rope_theta", |c| c.rope_theta = f64::NAN),
    ];
    for (field, change) in cases {
        let mut changed = config.clone();
        change(&mut changed);
        assert_eq!(changed.validate().unwrap_err().field(), field);
    }
}
