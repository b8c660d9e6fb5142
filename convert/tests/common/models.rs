//! Models as GGUF files.
#![allow(dead_code, unreachable_pub, reason = "each user uses a part")]

use chaski_models::{
    Config, RopeScaling,
    arch::ArchId,
    tensor_table,
    testing::{TINY_CHAT_TEMPLATE, Variant, tiny_tokenizer, weights},
};

use super::writer::{
    F32, Gguf, Tensor, array, boolean, float, floats, int, ints, text, texts, uint,
};

/// The smallest model with a byte-level tokenizer: one layer, vectors of 4, 6 tokens, one of them unused.
pub fn small() -> Gguf {
    let mut file = small_without_tokenizer(6);
    file.set("tokenizer.ggml.model", text("gpt2"));
    file.set("tokenizer.ggml.pre", text("smollm"));
    let tokens = ["a", "b", "ab", "\u{120}", "<|im_end|>", "[PAD5]"];
    file.set("tokenizer.ggml.tokens", texts(&tokens));
    file.set("tokenizer.ggml.token_type", ints(&[1, 1, 1, 1, 3, 5]));
    file.set("tokenizer.ggml.merges", texts(&["a b"]));
    file.set("tokenizer.ggml.eos_token_id", uint(4));
    file.set("tokenizer.chat_template", text("{{ messages[0].content }}"));
    file
}

/// The same with SentencePiece's tokens: 3 controls, 256 bytes, 5 pieces.
pub fn small_sentencepiece() -> Gguf {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "ab", "\u{2581}ab"].map(str::to_owned));
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.extend([1; 5]);
    let mut scores = vec![0.0; 259];
    scores.extend([-10.0, -11.0, -12.0, -1.0, -2.0]);
    let mut file = small_without_tokenizer(tokens.len() as u64);
    file.set("tokenizer.ggml.model", text("llama"));
    file.set("tokenizer.ggml.tokens", texts(&tokens));
    file.set("tokenizer.ggml.token_type", ints(&kinds));
    file.set("tokenizer.ggml.scores", floats(&scores));
    file.set("tokenizer.ggml.bos_token_id", uint(1));
    file.set("tokenizer.ggml.eos_token_id", uint(2));
    file.set("tokenizer.ggml.unknown_token_id", uint(0));
    file
}

fn small_without_tokenizer(vocab_size: u64) -> Gguf {
    let mut file = Gguf::new();
    file.set("general.architecture", text("llama"));
    file.set("general.name", text("small"));
    file.set("general.alignment", uint(32));
    file.set("llama.context_length", uint(16));
    file.set("llama.embedding_length", uint(4));
    file.set("llama.block_count", uint(1));
    file.set("llama.feed_forward_length", uint(6));
    file.set("llama.attention.head_count", uint(2));
    file.set("llama.attention.head_count_kv", uint(1));
    file.set("llama.attention.layer_norm_rms_epsilon", float(1e-5));
    file.set("llama.rope.freq_base", float(10_000.0));
    for (name, dims, type_id) in [
        ("token_embd.weight", &[4, vocab_size][..], 1),
        ("blk.0.attn_norm.weight", &[4], 0),
        ("blk.0.attn_q.weight", &[4, 4], 0),
        ("blk.0.attn_k.weight", &[4, 2], 30),
        ("blk.0.attn_v.weight", &[4, 2], 1),
        ("blk.0.attn_output.weight", &[4, 4], 0),
        ("blk.0.ffn_norm.weight", &[4], 0),
        ("blk.0.ffn_gate.weight", &[4, 6], 1),
        ("blk.0.ffn_up.weight", &[4, 6], 1),
        ("blk.0.ffn_down.weight", &[6, 4], 30),
        ("output_norm.weight", &[4], 0),
    ] {
        let n = dims.iter().product::<u64>() as usize;
        // Small numbers in each of the three types.
        let data: Vec<u8> = match type_id {
            0 => (0..n)
                .flat_map(|i| (i as f32 / 8.0).to_le_bytes())
                .collect(),
            _ => (0..n).flat_map(|i| [i as u8, 0x3c]).collect(),
        };
        file.tensors.push(Tensor::new(name, dims, type_id, data));
    }
    file
}

/// A tiny model of `chaski-models` as llama.cpp's converter would write it, in F32.
pub fn tiny(variant: Variant) -> Gguf {
    let config = variant.config();
    let mut file = Gguf::new();
    let arch = match config.arch {
        ArchId::Qwen2 => "qwen2",
        ArchId::Qwen3 => "qwen3",
        _ => "llama",
    };
    let key = |name: &str| format!("{arch}.{name}");
    file.set("general.architecture", text(arch));
    file.set("general.type", text("model"));
    file.set("general.name", text(variant.name()));
    file.set("general.file_type", uint(0));
    for (name, size) in [
        ("context_length", config.max_seq_len),
        ("embedding_length", config.dim),
        ("block_count", config.n_layers),
        ("feed_forward_length", config.ffn_dim),
        ("attention.head_count", config.n_heads),
        ("attention.head_count_kv", config.n_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        file.set(&key(name), uint(size as u32));
    }
    if arch == "llama" {
        file.set(&key("vocab_size"), uint(config.vocab_size as u32));
    }
    if let Some(window) = config.sliding_window {
        file.set(&key("attention.sliding_window"), uint(window as u32));
    }
    let eps = key("attention.layer_norm_rms_epsilon");
    file.set(&eps, float(config.norm_eps));
    file.set(&key("rope.freq_base"), float(config.rope_theta as f32));
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        file.set(&key("rope.scaling.type"), text("linear"));
        file.set(&key("rope.scaling.factor"), float(factor as f32));
    }
    tokenizer(&mut file, &config);

    if let Some(factors) = rope_factors(&config) {
        let dims = [factors.len() as u64];
        let data = bytes(&factors);
        let tensor = Tensor::new("rope_freqs.weight", &dims, 0, data);
        file.tensors.push(tensor);
    }
    for spec in tensor_table(&config) {
        let mut floats = weights(variant.seed(), &spec);
        let rotated = [".attn_q.", ".attn_k."]
            .iter()
            .any(|r| spec.gguf_name.contains(r));
        if arch == "llama" && rotated {
            floats = interleaved(&floats, spec.rows, config.head_dim);
        }
        let (cols, rows) = (spec.cols as u64, spec.rows as u64);
        let dims = if spec.vector {
            vec![cols]
        } else {
            vec![cols, rows]
        };
        let tensor = Tensor::new(&spec.gguf_name, &dims, 0, bytes(&floats));
        file.tensors.push(tensor);
    }
    file
}

/// What `rope_freqs.weight` holds, if there is one: divisors of the frequencies.
fn rope_factors(config: &Config) -> Option<Vec<f32>> {
    let mut plain = config.clone();
    plain.rope_scaling = RopeScaling::None;
    match &config.rope_scaling {
        RopeScaling::Factors { factors } => Some(factors.clone()),
        RopeScaling::Llama3 { .. } => {
            let scaled = chaski_models::rope::inv_freqs(config);
            let plain = chaski_models::rope::inv_freqs(&plain);
            Some(
                plain
                    .iter()
                    .zip(scaled)
                    .map(|(p, s)| (p / s) as f32)
                    .collect(),
            )
        }
        _ => None,
    }
}

/// The rows of each head as Meta's own code has them: the two of a rotary pair are neighbours.
fn interleaved(floats: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let cols = floats.len() / rows;
    (0..rows)
        .flat_map(|row| {
            let (head, i) = (row / head_dim, row % head_dim);
            let from = head * head_dim + i / 2 + i % 2 * (head_dim / 2);
            &floats[from * cols..][..cols]
        })
        .copied()
        .collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn tokenizer(file: &mut Gguf, config: &Config) {
    let json = tiny_tokenizer(config.vocab_size);
    let mut tokens = vec![String::new(); config.vocab_size];
    let mut kinds = vec![1; config.vocab_size];
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    for added in json["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap() as usize;
        tokens[id] = added["content"].as_str().unwrap().to_owned();
        kinds[id] = 3;
    }
    let merges = json["model"]["merges"].as_array().unwrap();
    let merges: Vec<_> = merges.iter().map(|m| m.as_str().unwrap()).collect();
    file.set("tokenizer.ggml.model", text("gpt2"));
    file.set("tokenizer.ggml.pre", text("gpt-2"));
    file.set("tokenizer.ggml.tokens", texts(&tokens));
    file.set("tokenizer.ggml.token_type", ints(&kinds));
    file.set("tokenizer.ggml.merges", texts(&merges));
    file.set("tokenizer.ggml.bos_token_id", uint(312));
    file.set(
        "tokenizer.ggml.eos_token_id",
        uint(config.eos_token_ids[0].0),
    );
    file.set("tokenizer.ggml.add_bos_token", boolean(true));
    file.set("tokenizer.chat_template", text(TINY_CHAT_TEMPLATE));
    file.set("general.sampling.temp", float(0.7));
    file.set("general.sampling.top_k", int(20));
    // What nobody reads, in types that nothing else here has.
    file.set("general.tags", texts(&["tiny", "seeded"]));
    file.set("quantize.imatrix.dataset", text(""));
    file.set(
        "tiny.numbers",
        array(F32, 2, &bytes(&[f32::NAN, f32::INFINITY])),
    );
}
