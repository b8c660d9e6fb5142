//! A GGUF file means the same to llama.cpp and to chaski: both give the same logits.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../../convert/tests/common/models.rs"]
mod models;
#[path = "../../../convert/tests/common/writer.rs"]
mod writer;

use std::{fs, sync::Arc};

use chaski::{Model, ModelOptions, Session, SessionOptions};
use chaski_convert::{ConvertOptions, Recipe, Silent, convert, source};
use chaski_models::{TokenId, testing::Variant};
use ggml_sys_bindgen::{ContextOptions, FOLDER, LlamaCpp, PeerError, folder};

/// llama.cpp's attention computes in f16 and its kernels sum in another order; the largest found is 3.4e-6. Two rows of
/// one K in each other's place are 0.05 and more, see below.
const NMSE: f64 = 1e-4;

/// The squared difference over the square of what is wanted.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(g - w)))
        .sum();
    error / want.iter().map(|&w| square(w.into())).sum::<f64>()
}

fn peer() -> Option<LlamaCpp> {
    let dir = folder().filter(|dir| dir.join("libllama.so").exists());
    let Some(dir) = dir else {
        println!(
            "skipped: {FOLDER} names no folder with libllama.so (scripts/get-ggml.sh fetches it)"
        );
        return None;
    };
    match LlamaCpp::open(&dir, None) {
        Ok(peer) => Some(peer),
        // Another release is no failure: the block types are compared with it all the same.
        Err(error @ PeerError::Version { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The same model with two rows of one head's K in each other's place, as an error in undoing GGUF's order would.
fn mixed_up(variant: Variant) -> Vec<u8> {
    let mut file = models::tiny(variant);
    let tensor = file.tensor("blk.0.attn_k.weight");
    let row = 4 * tensor.dims[0] as usize;
    let (first, rest) = tensor.data.split_at_mut(2 * row);
    first[row..].swap_with_slice(&mut rest[..row]);
    file.bytes()
}

// One test: llama.cpp's threads are to have the machine for themselves.
#[test]
fn llama_cpp_and_chaski_agree_on_the_tiny_models() {
    let Some(peer) = peer() else { return };
    println!("llama.cpp {}", peer.version());
    let dir = tempfile::tempdir().unwrap();
    for variant in Variant::ALL {
        if variant == Variant::Qwen2Window {
            continue; // GGUF does not say which layers have the window
        }
        let name = variant.name();
        let gguf = dir.path().join(format!("{name}.gguf"));
        fs::write(&gguf, models::tiny(variant).bytes()).unwrap();
        let file = dir.path().join(format!("{name}.chaski"));
        let options = ConvertOptions::new(Recipe::named("f32").unwrap());
        convert(&*source::open(&gguf).unwrap(), &file, &options, &Silent).unwrap();

        // Shorter than Mistral's window, which llama.cpp does not have.
        let tokens: Vec<u32> = (0..20).map(|i| i * 37 % 311).collect();
        let context = ContextOptions {
            context_len: 256,
            threads: 1,
            ubatch: 16,
        };
        let mut theirs = peer.load(&gguf).unwrap().context(context).unwrap();
        assert!(theirs.is_empty() && theirs.logits().is_empty());
        theirs.extend(&tokens).unwrap();

        let model = Arc::new(Model::open(&file, &ModelOptions::default()).unwrap());
        let options = SessionOptions {
            context_len: Some(64),
            threads: Some(1),
            ..SessionOptions::default()
        };
        let mut ours = Session::new(&model, &options).unwrap();
        let ids: Vec<TokenId> = tokens.iter().map(|&t| TokenId(t)).collect();
        ours.extend(&ids).unwrap();

        let want = theirs.logits();
        let error = nmse(ours.logits().unwrap(), &want);
        println!("{name}: NMSE {error:.2e}");
        assert!(error < NMSE, "{name}: {error:e}");

        let other = dir.path().join("mixed-up.gguf");
        fs::write(&other, mixed_up(variant)).unwrap();
        let mut other = peer.load(&other).unwrap().context(context).unwrap();
        other.extend(&tokens).unwrap();
        let error = nmse(&other.logits(), &want);
        println!("{name}: NMSE {error:.2e} with two rows of K mixed up");
        assert!(error > 100.0 * NMSE, "{name}: {error:e}");

        // The peer's bookkeeping: what was forgotten can be read again.
        theirs.truncate(10);
        assert_eq!(theirs.len(), 10);
        theirs.extend(&tokens[10..]).unwrap();
        assert!(nmse(&theirs.logits(), &want) < NMSE, "{name}");
        theirs.clear();
        assert!(theirs.is_empty());
        theirs.extend(&tokens[..3]).unwrap();
        assert!(
            nmse(&theirs.logits(), &want) > NMSE,
            "{name}: other texts have other logits"
        );
        let vocab_size = theirs.model().vocab_size();
        assert_eq!(vocab_size, variant.config().vocab_size);
        let too_large = theirs.extend(&[vocab_size as u32]).unwrap_err();
        assert!(matches!(too_large, PeerError::Token { .. }), "{too_large}");
        let too_long = theirs.extend(&[0; 254]).unwrap_err();
        assert!(
            matches!(too_long, PeerError::Full { context_len: 256 }),
            "{too_long}"
        );
    }
}

#[test]
fn what_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = LlamaCpp::open(dir.path(), None).unwrap_err();
    assert!(matches!(error, PeerError::Library { .. }), "{error}");
    assert!(error.to_string().contains("scripts/get-ggml.sh"), "{error}");
}
