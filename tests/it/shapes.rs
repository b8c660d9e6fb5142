//! Models of widths and groups of heads that no variant has, as defined, bit for bit: feed-forward networks that take
//! several calls of the matrix kernel and end within a block or within half of one, groups of 1 to 16 heads, passes of more
//! rows than kernels take at a time.

use std::env;

use chaski::{Session, SessionOptions};
use chaski_kernels_simd::Kernels;
use chaski_models::{Config, TokenId, reference::KvType, testing::Variant};
use chaski_quant::QuantType;
use serde_json::json;

use crate::tiny;

/// Sizes of a model.
pub(crate) struct Sizes {
    dim: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
}

impl Sizes {
    pub(crate) fn config(&self) -> Config {
        let mut json = match self.window {
            Some(_) => Variant::Mistral.hf_config(),
            None => Variant::LlamaUntied.hf_config(),
        };
        json["hidden_size"] = json!(self.dim);
        json["intermediate_size"] = json!(self.ffn);
        json["num_attention_heads"] = json!(self.heads);
        json["num_key_value_heads"] = json!(self.kv_heads);
        json["head_dim"] = json!(self.head_dim);
        json["num_hidden_layers"] = json!(2);
        json["vocab_size"] = json!(321);
        if let Some(window) = self.window {
            json["sliding_window"] = json!(window);
        }
        Config::from_hf(&json).unwrap()
    }
}

pub(crate) const SIZES: [Sizes; 5] = [
    Sizes {
        dim: 40,
        ffn: 300,
        heads: 16,
        kv_heads: 1,
        head_dim: 8,
        window: None,
    },
    Sizes {
        dim: 70,
        ffn: 560,
        heads: 8,
        kv_heads: 1,
        head_dim: 18,
        window: Some(65),
    },
    Sizes {
        dim: 33,
        ffn: 272,
        heads: 10,
        kv_heads: 2,
        head_dim: 6,
        window: Some(3),
    },
    Sizes {
        dim: 16,
        ffn: 33,
        heads: 3,
        kv_heads: 3,
        head_dim: 2,
        window: None,
    },
    Sizes {
        dim: 65,
        ffn: 1041,
        heads: 9,
        kv_heads: 1,
        head_dim: 34,
        window: None,
    },
];

/// Tokens of a text: more than 256.
const TOKENS: usize = 262;
/// The first whose logits are compared.
const FIRST: usize = 250;

fn check(sizes: &Sizes, seed: u64, qtype: Option<QuantType>, kv_type: KvType, rounded: bool) {
    let config = sizes.config();
    let bytes = tiny::container_of(&config, seed, qtype);
    let text = tiny::text(&config, TOKENS);
    let mut reference = tiny::reference_of(&config, seed, qtype, kv_type);
    if rounded {
        reference = reference.round_activations();
    }
    let want = &reference.logits(&text).unwrap()[FIRST * config.vocab_size..];
    for kernels in Kernels::available() {
        let model = tiny::model(&bytes, kernels);
        // How a text is cut does not hang on the level.
        let cuts = match kernels.level() == Kernels::best().level() {
            true => &[(1, TOKENS), (3, 17), (2, 1)][..],
            false => &[(1, TOKENS)],
        };
        for &(threads, ubatch) in cuts {
            let options = SessionOptions {
                context_len: Some(TOKENS + 1),
                kv_type,
                ubatch,
                threads: Some(threads),
                logit_rows: 5,
                round_activations: rounded,
                ..SessionOptions::default()
            };
            let mut session = Session::new(&model, &options).unwrap();
            let got = logits(&mut session, &text);
            assert_eq!(got.len(), want.len());
            let differs = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits());
            assert_eq!(
                differs,
                None,
                "{}, {threads} threads, batches of {ubatch}: ffn {}, {} heads of {}, {qtype:?}, {kv_type:?}, \
                 rounded {rounded}",
                kernels.name(),
                sizes.ffn,
                sizes.heads,
                sizes.kv_heads,
            );
        }
    }
}

fn logits(session: &mut Session, text: &[TokenId]) -> Vec<f32> {
    let mut all = Vec::new();
    session
        .extend_with(text, FIRST, &mut |_, logits| all.extend_from_slice(logits))
        .unwrap();
    all
}

#[test]
fn odd_widths_and_groups_are_computed_as_defined_on_every_level() {
    let sizes = match env::var_os("CHASKI_TEST_BRIEF") {
        Some(_) => &SIZES[2..3],
        None => &SIZES[..],
    };
    let kv_types = [KvType::F16, KvType::Q8, KvType::F32];
    for (i, sizes) in sizes.iter().enumerate() {
        // All matrices quantised, whose activations no step keeps as numbers; and all types mixed.
        for (k, qtype) in [Some(QuantType::Q4), None].into_iter().enumerate() {
            check(sizes, i as u64, qtype, kv_types[(i + k) % 3], false);
        }
    }
}

#[test]
fn odd_widths_are_rounded_as_defined_on_every_level() {
    for (i, qtype) in [Some(QuantType::BF16), None].into_iter().enumerate() {
        check(&SIZES[2 * i], i as u64, qtype, KvType::F16, true);
    }
}
