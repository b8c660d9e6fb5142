//! The reference against `scripts/reference.py`, which knows nothing of it.

use chaski_quant::scalar::attention::KvType;
use serde::Deserialize;

use super::{Variant, weights};
use crate::reference::{Reference, TensorData};
use crate::{Config, RopeScaling, TokenId};

#[derive(Deserialize)]
struct Golden {
    variant: String,
    tokens: Vec<TokenId>,
    largest: f64,
    first: usize,
    ids: Vec<usize>,
    logits: Vec<Vec<f64>>,
    last: Vec<f64>,
}

macro_rules! golden_files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../tests/data/", $name, ".json")))),*]
    };
}

const GOLDEN: &[(&str, &str)] = golden_files!(
    "llama" "llama-untied" "llama3-scaled" "linear-scaled" "factors" "mistral" "qwen2"
    "qwen2-window" "qwen3" "llama-long" "mistral-long"
);

fn load(name: &str) -> (Variant, Golden) {
    let text = GOLDEN.iter().find(|g| g.0 == name).unwrap().1;
    let golden: Golden = serde_json::from_str(text).unwrap();
    (
        Variant::ALL
            .into_iter()
            .find(|v| v.name() == golden.variant)
            .unwrap(),
        golden,
    )
}

/// The largest difference from the golden logits, relative to the largest logit.
fn difference(variant: Variant, config: &Config, golden: &Golden) -> f64 {
    let seed = variant.seed();
    let floats = |spec: &_| TensorData::Floats(weights(seed, spec));
    let mut model = Reference::new(config, KvType::F32, floats);
    let logits = model.logits(&golden.tokens).unwrap();
    let rows: Vec<_> = logits.chunks_exact(config.vocab_size).collect();
    assert_eq!(rows.len(), golden.first + golden.logits.len());
    let some = rows[golden.first..].iter().zip(&golden.logits);
    let some = some.flat_map(|(got, want)| golden.ids.iter().map(|&id| got[id]).zip(want));
    let all = some.chain(rows[rows.len() - 1].iter().copied().zip(&golden.last));
    let worst = all
        .map(|(got, want)| (f64::from(got) - want).abs())
        .fold(0.0, f64::max);
    worst / golden.largest
}

#[test]
fn f32_weights_give_the_logits_of_the_float64_model() {
    for (name, _) in GOLDEN {
        let (variant, golden) = load(name);
        let difference = difference(variant, &variant.config(), &golden);
        println!("{name}: {difference:e}");
        assert!(difference < 1e-4, "{name}: {difference:e}");
    }
}

/// The bound above means something only if a wrong model breaks it.
#[test]
fn every_feature_of_a_variant_shows_in_its_logits() {
    type Change = fn(&mut Config);
    let cases: [(&str, &str, Change); 9] = [
        ("llama", "the base of RoPE", |c| c.rope_theta = 10_500.0),
        ("llama", "the epsilon of norms", |c| c.norm_eps = 3e-4),
        ("llama3-scaled", "the scaling", |c| {
            c.rope_scaling = RopeScaling::None
        }),
        ("linear-scaled", "the factor", |c| {
            c.rope_scaling = RopeScaling::Linear { factor: 3.9 }
        }),
        ("factors", "the factors", |c| {
            c.rope_scaling = RopeScaling::None
        }),
        ("mistral", "the window's length", |c| {
            c.sliding_window = Some(25)
        }),
        ("mistral-long", "the window", |c| c.sliding_window = None),
        ("qwen2-window", "the windowed layers", |c| {
            c.windowed_layers = None
        }),
        ("qwen3", "the base of RoPE", |c| c.rope_theta = 10_000.0),
    ];
    for (name, what, change) in cases {
        let (variant, golden) = load(name);
        let mut config = variant.config();
        change(&mut config);
        let difference = difference(variant, &config, &golden);
        println!("{name} without {what}: {difference:e}");
        assert!(
            difference > 1e-3,
            "{name}: {what} does not show: {difference:e}"
        );
    }
}
