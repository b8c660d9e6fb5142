//! Every tensor is used or named.

use safetensors::Dtype;
use serde_json::json;

use super::checkpoint::{Checkpoint, Tensor};
use crate::{
    Note,
    mapping::{MappingError, ShapeMismatch, map},
    source,
};

fn error(checkpoint: &Checkpoint) -> MappingError {
    map(&*source::open(checkpoint.write().path()).unwrap()).unwrap_err()
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    for gone in ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"] {
        checkpoint.tensors.remove(gone).unwrap();
    }
    let extra = Tensor::random(Dtype::BF16, vec![4], 4, 1);
    checkpoint.tensors.insert(
        "model.layers.0.self_attn.q_proj.bias".to_owned(),
        extra.clone(),
    );
    checkpoint
        .tensors
        .insert("model.layers.2.mlp.up_proj.weight".to_owned(), extra);
    let wrong = Tensor::random(Dtype::BF16, vec![48, 80], 48 * 80, 2);
    checkpoint
        .tensors
        .insert("model.layers.0.self_attn.q_proj.weight".to_owned(), wrong);
    let vector = Tensor::random(Dtype::BF16, vec![1, 48], 48, 3);
    checkpoint
        .tensors
        .insert("model.layers.0.input_layernorm.weight".to_owned(), vector);

    let err = error(&checkpoint);
    let text = err.to_string();
    let MappingError::Tensors {
        missing,
        mut unknown,
        mut shapes,
        untied_output_missing,
    } = err
    else {
        panic!("{text}")
    };
    assert_eq!(
        missing,
        ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    );
    unknown.sort();
    assert_eq!(
        unknown,
        [
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.2.mlp.up_proj.weight"
        ]
    );
    assert!(!untied_output_missing);
    shapes.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    let mismatch = |tensor: &str, expected: &[usize], got: &[usize]| ShapeMismatch {
        tensor: tensor.to_owned(),
        expected: expected.to_vec(),
        got: got.to_vec(),
    };
    assert_eq!(
        shapes,
        [
            mismatch("model.layers.0.input_layernorm.weight", &[48], &[1, 48]),
            mismatch(
                "model.layers.0.self_attn.q_proj.weight",
                &[80, 48],
                &[48, 80]
            ),
        ]
    );
    for part in [
        "2 missing: `model.layers.1.mlp.up_proj.weight`, `model.norm.weight`",
        "2 unknown",
        "2 of another shape",
        "is [48, 80], expected [80, 48]",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_missing_output_matrix_points_to_the_tie() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, false);
    checkpoint.tensors.remove("lm_head.weight").unwrap();
    let text = error(&checkpoint).to_string();
    assert!(
        text.contains("`lm_head.weight` (the config does not tie"),
        "{text}"
    );
    checkpoint.config["tie_word_embeddings"] = json!(true);
    assert!(map(&*source::open(checkpoint.write().path()).unwrap()).is_ok());
}

#[test]
fn a_long_list_is_cut_in_the_text_and_whole_in_the_error() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    checkpoint
        .tensors
        .retain(|name, _| name == "model.norm.weight");
    let err = error(&checkpoint);
    assert!(err.to_string().ends_with("and 3 more"), "{err}");
    let MappingError::Tensors { missing, .. } = err else {
        panic!("{err}")
    };
    assert_eq!(missing.len(), 19);
}

#[test]
fn rotary_frequencies_are_implied_by_the_config() {
    let mut checkpoint = Checkpoint::new(Dtype::F32, true);
    let names = [0, 1].map(|layer| format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq"));
    for name in &names {
        checkpoint
            .tensors
            .insert(name.clone(), Tensor::random(Dtype::F32, vec![10], 10, 1));
    }
    let mapping = map(&*source::open(checkpoint.write().path()).unwrap()).unwrap();
    let [Note::NotStored { tensors }] = &mapping.notes[..] else {
        panic!("{:?}", mapping.notes)
    };
    let mut tensors = tensors.clone();
    tensors.sort();
    assert_eq!(tensors, names);
}

#[test]
fn an_output_matrix_of_another_shape_is_no_copy() {
    let mut checkpoint = Checkpoint::new(Dtype::F32, true);
    let small = Tensor::random(Dtype::F32, vec![35, 48], 35 * 48, 9);
    checkpoint
        .tensors
        .insert("lm_head.weight".to_owned(), small);
    let text = error(&checkpoint).to_string();
    assert!(
        text.contains("`lm_head.weight` is [35, 48], expected [70, 48]"),
        "{text}"
    );
}
