//! Checkpoint directories: what is read of them, and what is refused.

use std::{fs, path::Path};

use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Tensor};
use crate::source::{self, Generation, SourceError, hf::HfError};

fn hf_error(dir: &Path) -> HfError {
    match source::open(dir).unwrap_err() {
        SourceError::Hf(err) => err,
        err => panic!("{err:?}"),
    }
}

fn index(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("model.safetensors.index.json")).unwrap()).unwrap()
}

fn write_index(dir: &Path, index: &Value) {
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn an_index_that_leaves_the_directory_is_refused() {
    let dir = Checkpoint::new(Dtype::BF16, true).write_shards(2);
    // A readable checkpoint outside, which must not be reached.
    let outside = Checkpoint::new(Dtype::BF16, true).write();
    let absolute = outside.path().join("model.safetensors");
    let good = index(dir.path());
    for file in [
        "../model.safetensors",
        absolute.to_str().unwrap(),
        "a/../../x",
        "",
        "..",
    ] {
        let mut index = good.clone();
        index["weight_map"]["model.norm.weight"] = json!(file);
        write_index(dir.path(), &index);
        let err = hf_error(dir.path());
        assert!(
            matches!(&err, HfError::IndexLeavesDirectory { file: f, .. } if f == file),
            "{err}"
        );
    }
}

#[test]
fn index_and_shards_must_agree() {
    let dir = Checkpoint::new(Dtype::BF16, true).write_shards(2);
    let good = index(dir.path());
    let (one, two) = (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    );

    let mut missing = good.clone();
    missing["weight_map"]["model.ghost.weight"] = json!(one);
    write_index(dir.path(), &missing);
    let err = hf_error(dir.path());
    assert!(matches!(&err, HfError::NotInShard { tensor, .. } if tensor == "model.ghost.weight"));

    let mut extra = good.clone();
    extra["weight_map"]
        .as_object_mut()
        .unwrap()
        .remove("model.norm.weight")
        .unwrap();
    write_index(dir.path(), &extra);
    let err = hf_error(dir.path());
    assert!(matches!(&err, HfError::NotInIndex { tensor, .. } if tensor == "model.norm.weight"));

    let mut swapped = good.clone();
    let at = &mut swapped["weight_map"]["model.norm.weight"];
    *at = json!(if *at == one { two } else { one });
    write_index(dir.path(), &swapped);
    let err = hf_error(dir.path());
    assert!(
        matches!(err, HfError::NotInIndex { .. } | HfError::NotInShard { .. }),
        "{err}"
    );

    write_index(dir.path(), &good);
    fs::remove_file(dir.path().join(two)).unwrap();
    let err = source::open(dir.path()).unwrap_err();
    assert!(err.to_string().contains(two), "{err}");

    write_index(dir.path(), &json!({"weight_map": {"a": 1}}));
    assert!(matches!(hf_error(dir.path()), HfError::Json { .. }));
}

#[test]
fn two_checkpoints_in_one_directory_are_refused() {
    let checkpoint = Checkpoint::new(Dtype::BF16, true);
    let dir = checkpoint.write_shards(2);
    let single = checkpoint.write();
    let file = "model.safetensors";
    fs::copy(single.path().join(file), dir.path().join(file)).unwrap();
    assert!(matches!(
        hf_error(dir.path()),
        HfError::TwoCheckpoints { .. }
    ));
    // An index of the one file is fine.
    let map: serde_json::Map<_, _> = checkpoint
        .tensors
        .keys()
        .map(|name| (name.clone(), json!(file)))
        .collect();
    write_index(dir.path(), &json!({"weight_map": map}));
    assert_eq!(
        source::open(dir.path()).unwrap().tensors().len(),
        checkpoint.tensors.len()
    );
}

#[test]
fn what_is_missing_is_named() {
    let checkpoint = Checkpoint::new(Dtype::BF16, true);
    let dir = checkpoint.write();
    fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("pytorch_model.bin"),
    )
    .unwrap();
    let err = hf_error(dir.path());
    assert!(
        err.to_string().contains("pytorch_model.bin is not read"),
        "{err}"
    );
    fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    let err = hf_error(dir.path());
    assert!(
        matches!(err, HfError::NoWeights { instead: None, .. }),
        "{err}"
    );
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(hf_error(dir.path()).to_string().contains("config.json"));
}

#[test]
fn other_element_types_and_ranks_are_named() {
    for dtype in [Dtype::I32, Dtype::U8, Dtype::F8_E4M3, Dtype::F64] {
        let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
        let name = "model.layers.0.mlp.down_proj.weight";
        checkpoint.tensors.get_mut(name).unwrap().dtype = dtype;
        let err = hf_error(checkpoint.write().path());
        assert!(
            matches!(&err, HfError::DType { tensor, .. } if tensor == name),
            "{err}"
        );
        assert!(err.to_string().contains(&dtype.to_string()), "{err}");
    }
    for shape in [vec![], vec![1, 1, 48]] {
        let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
        let n = shape.iter().product();
        let tensor = Tensor::random(Dtype::BF16, shape, n, 1);
        checkpoint
            .tensors
            .insert("model.norm.weight".to_owned(), tensor);
        let err = hf_error(checkpoint.write().path());
        assert!(matches!(err, HfError::Rank { .. }), "{err}");
    }
}

#[test]
fn a_config_that_is_not_supported_is_named() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    checkpoint.config["architectures"] = json!(["GPT2LMHeadModel"]);
    let err = source::open(checkpoint.write().path()).unwrap_err();
    assert!(matches!(err, SourceError::Config { .. }), "{err:?}");
}

#[test]
fn chat_templates_are_found_where_they_are() {
    let template = |config: Option<Value>, jinja: Option<&str>| {
        let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
        let texts = &mut checkpoint.texts;
        match config {
            Some(config) => texts.insert("tokenizer_config.json".to_owned(), config.to_string()),
            None => texts.remove("tokenizer_config.json"),
        };
        if let Some(jinja) = jinja {
            texts.insert("chat_template.jinja".to_owned(), jinja.to_owned());
        }
        let dir = checkpoint.write();
        source::open(dir.path()).map(|s| s.chat_template().map(str::to_owned))
    };
    let inside = json!({"chat_template": "inside"});
    let several = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "chat"}]});
    assert_eq!(template(None, None).unwrap(), None);
    assert_eq!(
        template(Some(json!({"chat_template": null})), None).unwrap(),
        None
    );
    assert_eq!(
        template(Some(inside.clone()), None).unwrap().unwrap(),
        "inside"
    );
    assert_eq!(
        template(Some(inside), Some("file")).unwrap().unwrap(),
        "file"
    );
    assert_eq!(template(Some(several), None).unwrap().unwrap(), "chat");
    for bad in [
        json!(3),
        json!([{"name": "tool_use", "template": "tools"}]),
        json!({}),
    ] {
        let err = template(Some(json!({"chat_template": bad})), None).unwrap_err();
        assert!(err.to_string().contains("chat_template"), "{err}");
    }
}

#[test]
fn generation_defaults_come_from_their_file_and_then_from_the_config() {
    let generation = |file: Option<Value>| {
        let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
        if let Some(file) = file {
            checkpoint
                .texts
                .insert("generation_config.json".to_owned(), file.to_string());
        }
        source::open(checkpoint.write().path()).map(|s| s.generation().clone())
    };
    let plain = Generation {
        eos: vec![4],
        bos: Some(0),
        ..Generation::default()
    };
    assert_eq!(generation(None).unwrap(), plain);
    let given = json!({"eos_token_id": [5, 6], "bos_token_id": 1, "do_sample": true, "temperature": 0.5,
        "top_k": 20, "top_p": 0.75, "min_p": null, "repetition_penalty": 1.25, "max_length": 4096});
    assert_eq!(
        generation(Some(given)).unwrap(),
        Generation {
            do_sample: Some(true),
            eos: vec![5, 6],
            bos: Some(1),
            temperature: Some(0.5),
            top_k: Some(20),
            top_p: Some(0.75),
            min_p: None,
            repetition_penalty: Some(1.25),
        }
    );
    for (field, bad) in [
        ("eos_token_id", json!("</s>")),
        ("eos_token_id", json!([-1])),
        ("bos_token_id", json!(1u64 << 32)),
        ("temperature", json!(-1)),
        ("repetition_penalty", json!(0)),
        ("top_k", json!(0.5)),
        ("do_sample", json!("yes")),
    ] {
        let err = generation(Some(json!({field: bad}))).unwrap_err();
        assert!(err.to_string().contains(field), "{err}");
    }
}

#[test]
fn special_tokens_complete_the_tokenizer_config() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    checkpoint.texts.insert(
        "special_tokens_map.json".to_owned(),
        json!({"bos_token": "a", "eos_token": "b"}).to_string(),
    );
    let dir = checkpoint.write();
    let files = source::open(dir.path()).unwrap().tokenizer().unwrap();
    let config = files.tokenizer_config.unwrap();
    assert_eq!(
        (&config["bos_token"], &config["eos_token"]),
        (&json!("a"), &json!("<|im_end|>"))
    );
}

#[test]
fn rows_are_read_and_decoded_by_number() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let checkpoint = Checkpoint::new(dtype, true);
        let dir = checkpoint.write();
        let source = source::open(dir.path()).unwrap();
        let name = "model.layers.1.mlp.up_proj.weight";
        let index = source
            .tensors()
            .iter()
            .position(|t| t.name == name)
            .unwrap();
        let mut raw = Vec::new();
        source.read_raw(index, 3..10, &mut raw).unwrap();
        let mut rows = vec![0.0; 7 * 48];
        source.decode(index, 3, &raw, &mut rows).unwrap();
        assert_eq!(
            rows,
            checkpoint.tensors[name].values[3 * 48..10 * 48],
            "{dtype}"
        );
        // A byte too few, floats too few, and a part of a row.
        let parts = [
            (&raw[1..], 7 * 48),
            (&raw[..], 6 * 48),
            (&raw[..raw.len() / 7 / 48], 1),
        ];
        for (raw, n) in parts {
            let err = source.decode(index, 0, raw, &mut vec![0.0; n]).unwrap_err();
            assert!(
                matches!(err, SourceError::NotWholeRows { .. }),
                "{dtype}: {err}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the header says: an error, or tensors that can all be read.
    #[test]
    fn a_damaged_header_never_leads_outside_the_file(
        changes in prop::collection::vec((0usize..2000, any::<u8>()), 1..4),
        cut in prop::option::of(0usize..60_000),
    ) {
        let dir = Checkpoint::new(Dtype::BF16, true).write();
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        for (at, to) in changes {
            bytes[at] = to;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fs::write(&path, &bytes).unwrap();
        if let Ok(source) = source::open(dir.path()) {
            for (i, tensor) in source.tensors().iter().enumerate() {
                let mut raw = Vec::new();
                source.read_raw(i, 0..tensor.rows, &mut raw).unwrap();
                prop_assert_eq!(raw.len() as u64, tensor.bytes);
                let mut rows = vec![0.0; tensor.rows * tensor.cols];
                source.decode(i, 0, &raw, &mut rows).unwrap();
            }
        }
    }
}
