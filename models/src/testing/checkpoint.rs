//! Tiny models as Hugging Face checkpoint directories.

use std::{collections::HashMap, fs, io, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{TINY_CHAT_TEMPLATE, Variant, tiny_tokenizer, weights};
use crate::tensor_table;

/// Type of the weights in a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatType {
    /// `F32`.
    #[default]
    F32,
    /// `F16`.
    F16,
    /// `BF16`.
    BF16,
}

impl FloatType {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }

    fn bytes(self, floats: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16 => floats
                .iter()
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
            Self::BF16 => floats
                .iter()
                .flat_map(|x| bf16::from_f32(*x).to_le_bytes())
                .collect(),
        }
    }

    const fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }
}

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Type of all weights.
    pub float_type: FloatType,
    /// Number of files; more than one come with an index.
    pub n_shards: usize,
    /// Whether tokenizer, template and generation config are written too.
    pub tokenizer: bool,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self {
            float_type: FloatType::F32,
            n_shards: 1,
            tokenizer: true,
        }
    }
}

/// Writes a tiny model to `dir`, which is made if it is not there: `config.json`, the weights in
/// safetensors files, and, if asked for, `tokenizer.json`, `tokenizer_config.json` (with a chat
/// template) and `generation_config.json`.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write_checkpoint(
    dir: &Path,
    variant: Variant,
    options: &CheckpointOptions,
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let write = |name: &str, json: &Value| fs::write(dir.join(name), format!("{json:#}\n"));
    let mut config = variant.hf_config();
    config["torch_dtype"] = json!(options.float_type.torch_name());
    write("config.json", &config)?;
    write_weights(dir, variant, options)?;
    if options.tokenizer {
        let config = variant.config();
        write("tokenizer.json", &tiny_tokenizer(config.vocab_size))?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin|>",
            "eos_token": "<|end|>",
            "add_bos_token": true,
            "chat_template": TINY_CHAT_TEMPLATE,
            "model_max_length": config.max_seq_len,
        });
        write("tokenizer_config.json", &tokenizer_config)?;
        let generation = json!({
            "bos_token_id": 312,
            "eos_token_id": [313, 315],
            "do_sample": true,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.9,
        });
        write("generation_config.json", &generation)?;
    }
    Ok(())
}

fn write_weights(dir: &Path, variant: Variant, options: &CheckpointOptions) -> io::Result<()> {
    let table = tensor_table(&variant.config());
    let bytes: Vec<_> = table
        .iter()
        .map(|spec| options.float_type.bytes(&weights(variant.seed(), spec)))
        .collect();
    let n_shards = options.n_shards.clamp(1, table.len());
    let per_shard = table.len().div_ceil(n_shards);
    let mut map = serde_json::Map::new();
    for (shard, specs) in table.chunks(per_shard).enumerate() {
        let name = match n_shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
        };
        let mut views = Vec::new();
        for (spec, bytes) in specs.iter().zip(&bytes[shard * per_shard..]) {
            let shape = if spec.vector {
                vec![spec.cols]
            } else {
                vec![spec.rows, spec.cols]
            };
            let view = TensorView::new(options.float_type.dtype(), shape, bytes);
            views.push((spec.hf_name.as_str(), view.map_err(io::Error::other)?));
            map.insert(spec.hf_name.clone(), json!(name));
        }
        let info = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(info), &dir.join(name))
            .map_err(io::Error::other)?;
    }
    if n_shards > 1 {
        let total: usize = bytes.iter().map(Vec::len).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        fs::write(
            dir.join("model.safetensors.index.json"),
            format!("{index:#}\n"),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn shards_hold_every_tensor_once_and_the_index_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let options = CheckpointOptions {
            float_type: FloatType::BF16,
            n_shards: 3,
            tokenizer: true,
        };
        let variant = Variant::Qwen2;
        write_checkpoint(dir.path(), variant, &options).unwrap();
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let index: Value = serde_json::from_slice(&read("model.safetensors.index.json")).unwrap();
        let config: Value = serde_json::from_slice(&read("config.json")).unwrap();
        assert_eq!(crate::Config::from_hf(&config), Ok(variant.config()));
        for spec in tensor_table(&variant.config()) {
            let shard = read(index["weight_map"][&spec.hf_name].as_str().unwrap());
            let tensors = SafeTensors::deserialize(&shard).unwrap();
            let tensor = tensors.tensor(&spec.hf_name).unwrap();
            assert_eq!(tensor.shape().iter().product::<usize>(), spec.n_weights());
            let floats: Vec<_> = tensor
                .data()
                .chunks_exact(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect();
            assert_eq!(floats, weights(variant.seed(), &spec), "{}", spec.name);
        }
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
        ] {
            serde_json::from_slice::<Value>(&read(name)).unwrap();
        }
    }
}
