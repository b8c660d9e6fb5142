//! Small seeded checkpoints, written with the reference implementation of safetensors.

use std::{collections::BTreeMap, fs, path::Path};

use chaski_models::{config::Config, tensors::tensor_table};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// The values that the file is to hold, rounded to `dtype`.
    pub(crate) values: Vec<f32>,
}

/// A checkpoint in memory, to be changed by a test and written to a directory.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Other files by name.
    pub(crate) texts: BTreeMap<String, String>,
}

/// The smallest tokenizer that there is: two letters, one merge, an end.
pub(crate) const TOKENIZER: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
  "added_tokens": [{"id": 4, "content": "<|im_end|>", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"]}
}"#;

impl Checkpoint {
    /// A llama of two layers whose sizes are multiples of nothing: K of 48, 56 and 80, heads of 20
    /// rows.
    pub(crate) fn new(dtype: Dtype, tied: bool) -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": tied, "vocab_size": 70, "bos_token_id": 0, "eos_token_id": 4,
            "attention_bias": false, "mlp_bias": false, "torch_dtype": "float32",
        });
        let parsed = Config::from_hf(&config).unwrap();
        let mut seed = 1;
        let tensors = tensor_table(&parsed).into_iter().map(|spec| {
            let shape = if spec.vector {
                vec![spec.cols]
            } else {
                vec![spec.rows, spec.cols]
            };
            let n = spec.rows * spec.cols;
            seed += 1;
            (spec.hf_name, Tensor::random(dtype, shape, n, seed))
        });
        Self {
            tensors: tensors.collect(),
            config,
            texts: BTreeMap::from([
                ("tokenizer.json".to_owned(), TOKENIZER.to_owned()),
                (
                    "tokenizer_config.json".to_owned(),
                    r#"{"eos_token": "<|im_end|>"}"#.to_owned(),
                ),
            ]),
        }
    }

    /// The checkpoint in one file.
    pub(crate) fn write(&self) -> TempDir {
        let dir = self.write_texts();
        self.write_weights(&dir.path().join("model.safetensors"), |_| true);
        dir
    }

    /// The checkpoint in `n` files and an index of them.
    pub(crate) fn write_shards(&self, n: usize) -> TempDir {
        let dir = self.write_texts();
        let file = |i: usize| format!("model-{:05}-of-{n:05}.safetensors", i + 1);
        let shard_of: BTreeMap<_, _> = self
            .tensors
            .keys()
            .enumerate()
            .map(|(i, name)| (name.clone(), i % n))
            .collect();
        for i in 0..n {
            self.write_weights(&dir.path().join(file(i)), |name| shard_of[name] == i);
        }
        let map: BTreeMap<_, _> = shard_of.iter().map(|(name, &i)| (name, file(i))).collect();
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        dir
    }

    fn write_texts(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        for (name, text) in &self.texts {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn write_weights(&self, path: &Path, of: impl Fn(&str) -> bool) {
        let bytes: Vec<_> = self
            .tensors
            .iter()
            .filter(|(name, _)| of(name))
            .map(|(n, t)| (n, t, t.bytes()))
            .collect();
        let views = bytes.iter().map(|(name, t, bytes)| {
            (
                name.as_str(),
                TensorView::new(t.dtype, t.shape.clone(), bytes).unwrap(),
            )
        });
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        safetensors::serialize_to_file(views, metadata, path).unwrap();
    }
}

impl Tensor {
    pub(crate) fn random(dtype: Dtype, shape: Vec<usize>, n: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut uniform = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        // The sum of four is nearly normal, as weights are.
        let values = (0..n)
            .map(|_| uniform() + uniform() + uniform() + uniform())
            .collect();
        Self {
            dtype,
            shape,
            values,
        }
        .rounded()
    }

    fn rounded(mut self) -> Self {
        for x in &mut self.values {
            *x = match self.dtype {
                Dtype::BF16 => bf16::from_f32(*x).to_f32(),
                Dtype::F16 => f16::from_f32(*x).to_f32(),
                _ => *x,
            };
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let values = self.values.iter();
        match self.dtype {
            Dtype::BF16 => values
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::F16 => values
                .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                .collect(),
            Dtype::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
            other => vec![1; self.values.len() * other.bitsize() / 8],
        }
    }
}

/// The names in `dir`, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
