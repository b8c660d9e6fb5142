//! A `.chaski` file with the shape of a known model and random weights: `random_model SHAPE TYPE OUT.chaski`.
//!
//! For measuring speed without a download or a conversion: every product is computed, and the file has the size that the
//! model's has, in seconds instead of minutes. It has no tokenizer and says nothing sensible. Tiles repeat; no kernel's speed
//! depends on what is in them.
//!
//! SHAPE: `1b`, `8b` (Llama 3.2 1B and 3.1 8B) or `qwen-7b` (Qwen2.5 7B); TYPE: `q4`, `q4h`, `q5`, `q6`, `q8`, `f16`, ...

use std::{collections::HashMap, error::Error, fs::File, io::BufWriter};

use chaski_models::{
    Config, TensorSpec,
    metadata::{METADATA_VERSION, ModelMetadata, Provenance, RecipeInfo},
    tensor_table,
};
use chaski_quant::{
    QuantType,
    container::{ContainerWriter, DataPlan, TensorDecl, TensorKind},
    quantize::Quantizer,
};
use serde_json::{Value, json};

/// Tiles of a kind, after which they begin again.
const TILES: usize = 24;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, qtype, out] = &args[..] else {
        return Err("usage: random_model 1b|8b|qwen-7b TYPE OUT.chaski".into());
    };
    let config = config(shape).ok_or_else(|| format!("no shape {shape}: 1b, 8b, qwen-7b"))??;
    write(&config, qtype.parse()?, out)
}

fn config(shape: &str) -> Option<Result<Config, Failure>> {
    let llama = |dim: usize, ffn: usize, layers: usize, head_dim: usize, tied: bool| {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": dim, "intermediate_size": ffn,
            "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": head_dim,
            "tie_word_embeddings": tied, "vocab_size": 128_256, "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "hidden_act": "silu",
            "bos_token_id": 128_000, "eos_token_id": 128_001,
        })
    };
    let json: Value = match shape {
        "1b" => llama(2048, 8192, 16, 64, true),
        "8b" => llama(4096, 14_336, 32, 128, false),
        "qwen-7b" => json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18_944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": false,
            "vocab_size": 152_064, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "hidden_act": "silu", "bos_token_id": 151_643, "eos_token_id": 151_645,
        }),
        _ => return None,
    };
    Some(Config::from_hf(&json).map_err(Into::into))
}

/// Tiles of random weights, made once for each width and number of rows.
struct Tiles {
    quantizer: Quantizer,
    qtype: QuantType,
    made: HashMap<(usize, usize), Vec<Vec<u8>>>,
    random: u64,
}

impl Tiles {
    /// -1 to 1, by Knuth's linear congruential generator; its upper bits are good enough here.
    fn unit(&mut self) -> f32 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Tile `i` of a matrix; those with different `salt` differ.
    fn tile(&mut self, spec: &TensorSpec, i: usize, salt: usize) -> Result<&[u8], Failure> {
        let layout = spec.layout(self.qtype)?;
        let rows = layout.tile_rows(i).len();
        let key = (spec.cols, rows);
        if !self.made.contains_key(&key) {
            // Products about as large as what is multiplied.
            let scale = (3.0 / spec.cols as f32).sqrt();
            let mut tiles = Vec::with_capacity(TILES);
            for _ in 0..TILES {
                let rows: Vec<Vec<f32>> = (0..rows)
                    .map(|_| (0..spec.cols).map(|_| self.unit() * scale).collect())
                    .collect();
                let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                let mut tile = vec![0; layout.tile_bytes()];
                self.quantizer.quantize_tile(&rows, &mut tile)?;
                tiles.push(tile);
            }
            self.made.insert(key, tiles);
        }
        Ok(&self.made[&key][(i + salt) % TILES])
    }
}

fn write(config: &Config, qtype: QuantType, out: &str) -> Result<(), Failure> {
    let table = tensor_table(config);
    let mut decls = Vec::with_capacity(table.len());
    for spec in &table {
        decls.push(TensorDecl {
            name: spec.name.clone(),
            kind: match spec.vector {
                true => TensorKind::Vector { len: spec.cols },
                false => TensorKind::Matrix(spec.layout(qtype)?),
            },
            section_start: spec.role.starts_section(),
            interleaved: spec.role.is_interleaved(),
        });
    }
    let file = BufWriter::with_capacity(1 << 20, File::create(out)?);
    let mut writer = ContainerWriter::new(file, DataPlan::new(decls)?)?;
    let mut tiles = Tiles {
        quantizer: Quantizer::new(qtype),
        qtype,
        made: HashMap::new(),
        random: 1,
    };
    let mut i = 0;
    while i < table.len() {
        let spec = &table[i];
        if spec.vector {
            // Norms of 1, biases of 0.
            let x: f32 = if spec.name.ends_with("bias") {
                0.0
            } else {
                1.0
            };
            writer.write(i, &x.to_le_bytes().repeat(spec.cols))?;
        } else {
            // Interleaved matrices take turns tile by tile.
            let n = if spec.role.is_interleaved() { 2 } else { 1 };
            for tile in 0..spec.layout(qtype)?.n_tiles() {
                for part in 0..n {
                    let bytes = tiles.tile(&table[i + part], tile, i + part)?;
                    writer.write(i + part, bytes)?;
                }
            }
            i += n - 1;
        }
        i += 1;
    }
    let metadata = ModelMetadata {
        version: METADATA_VERSION,
        config: config.clone(),
        chat_template: None,
        generation: Default::default(),
        tokenizer: Default::default(),
        provenance: Provenance::default(),
        recipe: RecipeInfo::default(),
        report: Default::default(),
        extensions: Default::default(),
    };
    writer.finish(&metadata.to_json()?, &[])?;
    Ok(())
}
