//! A model is the same whether it comes as safetensors or as GGUF.

use std::{fs, path::Path};

use chaski_convert::{
    ConvertOptions, Recipe, Silent, convert,
    source::{self, RowOrder, Source},
};
use chaski_models::{
    ModelMetadata, RopeScaling,
    testing::{CheckpointOptions, FloatType, Variant, write_checkpoint},
    tokenizer::{Specials, Tokenizer},
};
use chaski_quant::container::{Container, SectionKind};

use super::models::tiny;

/// The file that `source` becomes, and what of it is neither text nor about where it came from.
fn converted(path: &Path, recipe: &str) -> (Container, Vec<u8>) {
    let source = source::open(path).unwrap();
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.chaski");
    let recipe = Recipe::named(recipe).unwrap();
    let options = ConvertOptions::new(recipe);
    convert(&*source, &out, &options, &Silent).unwrap();
    let bytes = fs::read(&out).unwrap();
    let container = Container::from_bytes(bytes.clone()).unwrap();
    container.verify(|_, _| {}).unwrap();
    (container, bytes)
}

fn metadata(container: &Container) -> ModelMetadata {
    ModelMetadata::from_json(container.metadata()).unwrap()
}

fn fast_tokenizer(container: &Container) -> Tokenizer {
    Tokenizer::from_fast(container.section(SectionKind::TokenizerFast).unwrap()).unwrap()
}

#[test]
fn gguf_and_safetensors_of_the_same_weights_give_the_same_bytes() {
    for variant in Variant::ALL {
        if variant == Variant::Qwen2Window {
            continue; // GGUF does not say which layers have the window; refused, see model.rs
        }
        let dir = tempfile::tempdir().unwrap();
        let options = CheckpointOptions {
            float_type: FloatType::F32,
            n_shards: 1,
            tokenizer: true,
        };
        let checkpoint = dir.path().join("checkpoint");
        write_checkpoint(&checkpoint, variant, &options).unwrap();
        let file = dir.path().join("model.gguf");
        for version in [2, 3] {
            let mut gguf = tiny(variant);
            gguf.version = version;
            fs::write(&file, gguf.bytes()).unwrap();
            let name = format!("{} as version {version}", variant.name());

            for recipe in ["f32", "q4"] {
                let (want, want_bytes) = converted(&checkpoint, recipe);
                let (got, got_bytes) = converted(&file, recipe);
                assert_eq!(got.tensors(), want.tensors(), "{name}, {recipe}");
                assert_eq!(got.data_range(), want.data_range(), "{name}, {recipe}");
                assert!(
                    got_bytes[got.data_range()] == want_bytes[want.data_range()],
                    "{name}, {recipe}: the weights differ"
                );
                let (got, want) = (metadata(&got), metadata(&want));
                assert_eq!(got.chat_template, want.chat_template, "{name}");
                assert_eq!(got.tokenizer, want.tokenizer, "{name}");
                let (mut got, mut want) = (got.config, want.config);
                if variant == Variant::Llama3Scaled {
                    // Recognised at the published models' context only; else each frequency has its divisor.
                    let RopeScaling::Factors { factors } = &got.rope_scaling else {
                        panic!("{name}: {:?}", got.rope_scaling);
                    };
                    let rounded = chaski_models::rope::inv_freqs(&got);
                    let exact = chaski_models::rope::inv_freqs(&want);
                    assert_eq!(factors.len(), exact.len());
                    for (r, e) in rounded.iter().zip(&exact) {
                        assert!((r - e).abs() <= 1e-7 * e, "{name}: {r} for {e}");
                    }
                    got.rope_scaling = want.rope_scaling.clone();
                }
                // GGUF names one end; the checkpoint of this test has another as well.
                got.eos_token_ids.clear();
                want.eos_token_ids.clear();
                assert_eq!(got, want, "{name}");
            }
        }
    }
}

#[test]
fn both_tokenizers_give_the_same_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, file) = (dir.path().join("checkpoint"), dir.path().join("model.gguf"));
    write_checkpoint(&checkpoint, Variant::Qwen2, &CheckpointOptions::default()).unwrap();
    fs::write(&file, tiny(Variant::Qwen2).bytes()).unwrap();
    let want = fast_tokenizer(&converted(&checkpoint, "q4").0);
    let got = fast_tokenizer(&converted(&file, "q4").0);
    assert_eq!(got.vocab_size(), want.vocab_size());
    assert_eq!(got.bos(), want.bos());
    for text in [
        "",
        " ",
        "the thing on the other hand",
        "12 of 345,678\r\n\n\tand more  ",
        "<|turn|>user\nnaïve \u{1f600}<|eot|>",
        "\u{0}\u{ad}\u{3000}",
    ] {
        for specials in [Specials::Parse, Specials::AsText] {
            let tokens = |t: &Tokenizer| t.encode(text, specials).unwrap();
            assert_eq!(tokens(&got), tokens(&want), "{text:?}");
        }
    }
}

#[test]
fn only_q_and_k_of_llama_are_interleaved() {
    for (variant, want) in [
        (Variant::Llama, 4),
        (Variant::Mistral, 4),
        (Variant::Qwen2, 0),
        (Variant::Qwen3, 0),
    ] {
        let source = super::open(tiny(variant).bytes()).unwrap();
        let head_dim = source.config().head_dim;
        let interleaved: Vec<_> = (0..source.tensors().len())
            .filter(|&i| source.row_order(i) == RowOrder::InterleavedRotary { head_dim })
            .map(|i| &*source.tensors()[i].name)
            .collect();
        assert_eq!(
            interleaved.len(),
            want,
            "{}: {interleaved:?}",
            variant.name()
        );
        let rotated = |name: &str| name.contains("attn_q.") || name.contains("attn_k.");
        assert!(interleaved.iter().all(|n| rotated(n)), "{interleaved:?}");
    }
}

#[test]
fn rows_in_file_order_are_not_the_models() {
    // That the bytes above are equal would show nothing if the order were the same.
    let source = super::open(tiny(Variant::Llama).bytes()).unwrap();
    let spec = chaski_models::tensor_table(&Variant::Llama.config())
        .into_iter()
        .find(|s| s.gguf_name == "blk.0.attn_q.weight")
        .unwrap();
    let at = source
        .tensors()
        .iter()
        .position(|t| t.name == spec.gguf_name)
        .unwrap();
    let mut raw = Vec::new();
    source.read_raw(at, 0..spec.rows, &mut raw).unwrap();
    let mut floats = vec![0.0; spec.n_weights()];
    source.decode(at, 0, &raw, &mut floats).unwrap();
    assert_ne!(
        floats,
        chaski_models::testing::weights(Variant::Llama.seed(), &spec)
    );
}
