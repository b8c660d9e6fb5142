//! What is not understood is an error that says where it stands.

use chaski_models::tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Value, json};

use crate::common::{fixture, fixture_json};

/// The path in the error that a change to a fixture brings.
fn path_of(err: TokenizerError) -> String {
    assert!(!err.to_string().ends_with('.'), "{err}");
    match err {
        TokenizerError::Unsupported { path, .. }
        | TokenizerError::Invalid { path, .. }
        | TokenizerError::Pattern { path, .. } => path,
        other => panic!("{other}"),
    }
}

#[test]
fn a_part_that_is_not_understood_is_named_by_its_path() {
    struct Case {
        base: &'static str,
        at: &'static str,
        put: Value,
        path: &'static str,
    }
    let case = |base, at, put, path| Case {
        base,
        at,
        put,
        path,
    };
    let cases = [
        case("qwen", "/version", json!("2.0"), "version"),
        case("qwen", "/more", json!({"x": 1}), "more"),
        case(
            "qwen",
            "/normalizer",
            json!({"type": "Lowercase"}),
            "normalizer",
        ),
        case(
            "qwen",
            "/normalizer",
            json!({"type": "NFC", "x": 1}),
            "normalizer.x",
        ),
        case("qwen", "/normalizer", json!("NFC"), "normalizer"),
        case("qwen", "/normalizer", json!({}), "normalizer.type"),
        case(
            "sp_legacy",
            "/normalizer/normalizers/1",
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            "normalizer.normalizers[1]",
        ),
        case(
            "sp_legacy",
            "/normalizer/normalizers/0/prepend",
            json!("▁".repeat(30)),
            "normalizer.normalizers[0].prepend",
        ),
        case(
            "sp_legacy",
            "/normalizer/normalizers/1/pattern",
            json!({"String": ""}),
            "normalizer.normalizers[1].pattern",
        ),
        case(
            "sp_legacy",
            "/normalizer/normalizers/1/pattern",
            json!({"Regex": "("}),
            "normalizer.normalizers[1].pattern",
        ),
        case(
            "qwen",
            "/pre_tokenizer",
            json!({"type": "Whitespace"}),
            "pre_tokenizer",
        ),
        case(
            "qwen",
            "/pre_tokenizer/pretokenizers/0",
            json!({"type": "BertPreTokenizer"}),
            "pre_tokenizer.pretokenizers[0]",
        ),
        case(
            "qwen",
            "/pre_tokenizer/pretokenizers/0",
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}),
            "pre_tokenizer.pretokenizers[0]",
        ),
        case(
            "qwen",
            "/pre_tokenizer/pretokenizers/0/behavior",
            json!("Random"),
            "pre_tokenizer.pretokenizers[0].behavior",
        ),
        case(
            "qwen",
            "/pre_tokenizer/pretokenizers/0/invert",
            json!(null),
            "pre_tokenizer.pretokenizers[0].invert",
        ),
        case(
            "qwen",
            "/pre_tokenizer/pretokenizers/0/pattern",
            json!({"Regex": "(?<="}),
            "pre_tokenizer.pretokenizers[0].pattern",
        ),
        case(
            "qwen",
            "/pre_tokenizer/pretokenizers/1/use_regex",
            json!("yes"),
            "pre_tokenizer.pretokenizers[1].use_regex",
        ),
        case(
            "sp_metaspace",
            "/pre_tokenizer/replacement",
            json!("__"),
            "pre_tokenizer.replacement",
        ),
        case(
            "sp_metaspace",
            "/pre_tokenizer/prepend_scheme",
            json!("last"),
            "pre_tokenizer.prepend_scheme",
        ),
        case(
            "sp_metaspace",
            "/pre_tokenizer/add_prefix_space",
            json!(false),
            "pre_tokenizer.add_prefix_space",
        ),
        case(
            "sp_metaspace",
            "/normalizer",
            json!({"type": "NFC"}),
            "pre_tokenizer.prepend_scheme",
        ),
        case("qwen", "/decoder", json!(null), "decoder"),
        case("qwen", "/decoder", json!({"type": "WordPiece"}), "decoder"),
        case(
            "sp_legacy",
            "/decoder",
            json!({"type": "ByteLevel"}),
            "decoder",
        ),
        case(
            "sp_legacy",
            "/decoder/decoders/3/stop",
            json!(1),
            "decoder.decoders[3].stop",
        ),
        case(
            "sp_legacy",
            "/decoder/decoders/2",
            json!({"type": "ByteFallback"}),
            "decoder.decoders[3]", // `Strip` without `Fuse` strips each token
        ),
        case(
            "sp_legacy",
            "/decoder/decoders/0/content",
            json!("long space"),
            "decoder.decoders[0].content",
        ),
        case(
            "qwen",
            "/post_processor",
            json!({"type": "RobertaProcessing"}),
            "post_processor",
        ),
        case(
            "llama3",
            "/post_processor/processors/1/single/1",
            json!({"Other": {}}),
            "post_processor.processors[1].single[1].Other",
        ),
        case(
            "llama3",
            "/post_processor/processors/1/special_tokens",
            json!({}),
            "post_processor.processors[1].special_tokens.<|begin_of_text|>.ids",
        ),
        case("qwen", "/model/type", json!("Unigram"), "model.type"),
        case("qwen", "/model/dropout", json!(0.1), "model.dropout"),
        case(
            "qwen",
            "/model/continuing_subword_prefix",
            json!("##"),
            "model.continuing_subword_prefix",
        ),
        case(
            "qwen",
            "/model/end_of_word_suffix",
            json!("</w>"),
            "model.end_of_word_suffix",
        ),
        case(
            "qwen",
            "/model/unk_token",
            json!("<unk>"),
            "model.unk_token",
        ),
        case("qwen", "/model/vocab", json!([]), "model.vocab"),
        case("qwen", "/model/vocab/!", json!(-1), "model.vocab[\"!\"]"),
        case(
            "qwen",
            "/model/vocab/!",
            json!(1 << 22),
            "model.vocab[\"!\"]",
        ),
        case("qwen", "/model/vocab/!", json!(1), "model.vocab[\"\\\"\"]"),
        case("qwen", "/model/merges/3", json!("one"), "model.merges[3]"),
        case("qwen", "/model/merges/3", json!("a b c"), "model.merges[3]"),
        case(
            "qwen",
            "/model/merges/3",
            json!(["漢", "b"]),
            "model.merges[3]",
        ),
        case(
            "qwen",
            "/model/merges/3",
            json!(["!", "!"]),
            "model.merges[3]",
        ),
        case("qwen", "/model/more", json!(1), "model.more"),
        case(
            "smollm",
            "/model/byte_fallback",
            json!(true),
            "model.byte_fallback",
        ),
        case("qwen", "/added_tokens", json!({}), "added_tokens"),
        case("qwen", "/added_tokens/1/id", json!(7), "added_tokens[1].id"),
        case(
            "qwen",
            "/added_tokens/1/content",
            json!(""),
            "added_tokens[1].content",
        ),
        case(
            "qwen",
            "/added_tokens/1/more",
            json!(1),
            "added_tokens[1].more",
        ),
    ];
    for Case {
        base,
        at,
        put,
        path,
    } in cases
    {
        let mut json = fixture_json(base);
        match json.pointer_mut(at) {
            Some(value) => *value = put.clone(),
            None => {
                let (parent, key) = at.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[key] = put.clone();
            }
        }
        let err = Tokenizer::from_hf(json.to_string().as_bytes(), None).expect_err(at);
        assert_eq!(path_of(err), path, "{base}: {at} = {put}");
    }
}

#[test]
fn a_field_that_is_missing_is_named() {
    for key in ["model", "decoder"] {
        let mut json = fixture_json("qwen");
        json.as_object_mut().unwrap().remove(key);
        let err = Tokenizer::from_hf(json.to_string().as_bytes(), None).unwrap_err();
        assert_eq!(path_of(err), key);
    }
    for key in ["vocab", "merges"] {
        let mut json = fixture_json("qwen");
        json["model"].as_object_mut().unwrap().remove(key);
        let err = Tokenizer::from_hf(json.to_string().as_bytes(), None).unwrap_err();
        assert_eq!(path_of(err), format!("model.{key}"));
    }
}

#[test]
fn sequences_end_somewhere() {
    let mut json = fixture_json("qwen");
    let mut steps = json!({"type": "NFC"});
    for _ in 0..50 {
        steps = json!({"type": "Sequence", "normalizers": [steps]});
    }
    json["normalizer"] = steps;
    let err = Tokenizer::from_hf(json.to_string().as_bytes(), None).unwrap_err();
    assert!(matches!(err, TokenizerError::Unsupported { .. }), "{err}");
}

#[test]
fn a_config_that_does_not_fit_is_refused() {
    for (config, path) in [
        (json!({"eos_token": "<nowhere>"}), "eos_token"),
        (json!({"bos_token": 1}), "bos_token"),
        (json!({"bos_token": {"text": "a"}}), "bos_token"),
        (json!({"add_bos_token": true}), "add_bos_token"),
        (json!({"add_bos_token": "yes"}), "add_bos_token"),
        (json!({"added_tokens_decoder": []}), "added_tokens_decoder"),
        (
            json!({"added_tokens_decoder": {"x": {"content": "a"}}}),
            "added_tokens_decoder.x",
        ),
        (
            json!({"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}}),
            "added_tokens_decoder.5",
        ),
        (
            json!({"added_tokens_decoder": {"9999": {"content": "new", "x": 1}}}),
            "added_tokens_decoder.9999.x",
        ),
    ] {
        let err = Tokenizer::from_hf(fixture("qwen").as_bytes(), Some(&config)).unwrap_err();
        assert_eq!(path_of(err), path, "{config}");
    }
}

#[test]
fn anything_but_json_is_refused() {
    let json = fixture("sp_unknown");
    for len in (0..json.len() - 2).step_by(31) {
        let part = &json.as_bytes()[..len];
        assert!(
            matches!(Tokenizer::from_hf(part, None), Err(TokenizerError::Json(_))),
            "{len}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(
        Tokenizer::from_hf(deep.as_bytes(), None),
        Err(TokenizerError::Json(_))
    ));
    let err = Tokenizer::from_hf(b"[]", None).unwrap_err();
    assert_eq!(
        err.to_string(),
        "tokenizer: `` should be an object, is a list of 0"
    );
}
