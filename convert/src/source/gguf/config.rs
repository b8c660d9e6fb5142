//! The metadata of a GGUF file as the `config.json` that the model would have on Hugging Face's hub.

use chaski_models::config::{Config, ConfigError, HfConfig};
use serde_json::{Map, Value as Json, json};

use super::{
    error::GgufError,
    header::HeaderTensor,
    metadata::{Metadata, Value},
    rope::{self, HIGH_FREQ_FACTOR, LOW_FREQ_FACTOR, ORIGINAL_MAX_SEQ_LEN, ROPE_FREQS},
};

const ARCHITECTURE: &str = "general.architecture";

/// Architectures of GGUF with their class and `model_type` on the hub. Mistral's models are `llama` as well.
const ARCHITECTURES: [(&str, &str, &str); 3] = [
    ("llama", "LlamaForCausalLM", "llama"),
    ("qwen2", "Qwen2ForCausalLM", "qwen2"),
    ("qwen3", "Qwen3ForCausalLM", "qwen3"),
];

/// What an absent `rope.freq_base` stands for.
const DEFAULT_THETA: f64 = 10_000.0;

/// Keys under the architecture's name that are read here.
const READ: [&str; 17] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.scale",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
];

/// Keys under the architecture's name that do not change the result.
const NO_EFFECT: [&str; 4] = [
    "tensor_data_layout",
    "attention.layer_norm_epsilon",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
];

const EXPERTS: &str = "mixtures of experts are not implemented";
const SCALE: &str = "scaled or capped activations are not implemented";
const ATTENTION: &str = "this form of attention is not implemented";
const ROPE: &str = "this form of RoPE is not implemented; the model cannot be converted faithfully";
const LAYERS: &str = "layers of this kind are not implemented";
const NOT_TEXT: &str = "only models that continue a text are implemented";

/// Keys under the architecture's name, or beginnings of them, that change the result unless the value is this.
const REFUSED: &[(&str, f64, &str)] = &[
    ("activation_sparsity_scale", 0.0, SCALE),
    ("altup.", 0.0, LAYERS),
    ("attention.causal", 1.0, NOT_TEXT),
    ("attention.clamp_kqv", 0.0, SCALE),
    ("attention.decay_lora_rank", 0.0, ATTENTION),
    ("attention.gate_lora_rank", 0.0, ATTENTION),
    ("attention.group_norm_", 0.0, ATTENTION),
    ("attention.iclr_lora_rank", 0.0, ATTENTION),
    ("attention.indexer.", 0.0, ATTENTION),
    ("attention.key_length_", 0.0, ATTENTION),
    ("attention.kv_lora_rank", 0.0, ATTENTION),
    ("attention.max_alibi_bias", 0.0, ROPE),
    ("attention.output_scale", 1.0, SCALE),
    ("attention.q_lora_rank", 0.0, ATTENTION),
    ("attention.relative_buckets_count", 0.0, ATTENTION),
    ("attention.shared_kv_layers", 0.0, ATTENTION),
    ("attention.sliding_window_pattern", 0.0, ATTENTION),
    ("attention.temperature_", 0.0, SCALE),
    ("attention.value_length_", 0.0, ATTENTION),
    ("attention.value_residual_mix_lora_rank", 0.0, ATTENTION),
    ("attn_logit_softcapping", 0.0, SCALE),
    ("classifier.", 0.0, NOT_TEXT),
    ("convnext.", 0.0, LAYERS),
    ("decoder_", 0.0, NOT_TEXT),
    ("embedding_length_", 0.0, LAYERS),
    ("embedding_scale", 1.0, SCALE),
    ("expert", 0.0, EXPERTS),
    ("final_logit_softcapping", 0.0, SCALE),
    ("full_attention_interval", 0.0, LAYERS),
    ("interleave_moe_layer_step", 0.0, EXPERTS),
    ("kda.", 0.0, LAYERS),
    ("leading_dense_block_count", 0.0, EXPERTS),
    ("logit_scale", 1.0, SCALE),
    ("moe_", 0.0, EXPERTS),
    ("n_deepstack_layers", 0.0, LAYERS),
    ("nextn_predict_layers", 0.0, LAYERS),
    ("pooling_type", 0.0, NOT_TEXT),
    ("posnet.", 0.0, LAYERS),
    ("rescale_every_n_layers", 0.0, SCALE),
    ("residual_scale", 1.0, SCALE),
    ("rope.dimension_count_", 0.0, ROPE),
    ("rope.dimension_sections", 0.0, ROPE),
    ("rope.freq_base_", 0.0, ROPE),
    ("rope.scaling.alpha", 1.0, ROPE),
    ("rope.scaling.attn_factor", 1.0, ROPE),
    ("rope.scaling.yarn_", 0.0, ROPE),
    ("router_logit_softcapping", 0.0, SCALE),
    ("shortconv.", 0.0, LAYERS),
    ("ssm.", 0.0, LAYERS),
    ("swiglu_clamp_", 0.0, SCALE),
    ("swin_norm", 0.0, LAYERS),
    ("use_parallel_residual", 0.0, LAYERS),
    ("wkv.", 0.0, LAYERS),
];

/// A config with what its reader noticed.
#[derive(Debug)]
pub(super) struct GgufConfig {
    pub(super) config: Config,
    /// The architecture as the file names it.
    pub(super) arch: &'static str,
    pub(super) notes: Vec<String>,
}

/// Why there is no config.
pub(super) enum Refused {
    Gguf(GgufError),
    Config(ConfigError),
}

impl From<GgufError> for Refused {
    fn from(cause: GgufError) -> Self {
        Self::Gguf(cause)
    }
}

/// Reads the config.
///
/// * `rope_factors`: the values of `rope_freqs.weight`.
/// * `bos`, `eos`: token ids for the config's fields.
pub(super) fn read(
    metadata: &Metadata,
    tensors: &[HeaderTensor],
    rope_factors: Option<&[f32]>,
    bos: Option<u32>,
    eos: &[u32],
) -> Result<GgufConfig, Refused> {
    let name = metadata.text(ARCHITECTURE)?;
    let Some(&(arch, class, model_type)) = ARCHITECTURES.iter().find(|a| Some(a.0) == name) else {
        return Err(unknown_architecture(name).into());
    };
    let mut reader = Reader {
        metadata,
        arch,
        notes: Vec::new(),
    };
    reader.check_general()?;
    reader.check_other_keys()?;
    let mut json = reader.dimensions(tensors)?;
    let head_dim = json
        .get("head_dim")
        .and_then(Json::as_u64)
        .unwrap_or_default();
    let (theta, scaling) = reader.rope(tensors, rope_factors)?;
    json.insert("rope_theta".to_owned(), theta.into());
    json.insert("rope_scaling".to_owned(), scaling);
    reader.check_attention_scale(head_dim as f64)?;
    let window = reader.sliding_window()?;
    // Of the models that GGUF calls `llama`, Mistral's are those with a sliding window.
    let (class, model_type) = match window {
        Some(_) => ("MistralForCausalLM", "mistral"),
        None => (class, model_type),
    };
    json.insert("architectures".to_owned(), json!([class]));
    json.insert("model_type".to_owned(), model_type.into());
    json.insert("sliding_window".to_owned(), window.into());
    json.insert("bos_token_id".to_owned(), bos.into());
    json.insert("eos_token_id".to_owned(), eos.into());

    let parsed = HfConfig::parse(&Json::Object(json));
    let HfConfig { config, notes } = parsed.map_err(|e| Refused::Config(in_gguf_terms(e, arch)))?;
    reader.notes.extend(notes);
    Ok(GgufConfig {
        config,
        arch,
        notes: reader.notes,
    })
}

fn unknown_architecture(name: Option<&str>) -> GgufError {
    const EXPECTED: &str = "llama, qwen2 or qwen3";
    match name {
        None => GgufError::MissingKey {
            key: ARCHITECTURE.to_owned(),
            expected: EXPECTED,
        },
        Some(name) => GgufError::Unsupported {
            key: ARCHITECTURE.to_owned(),
            expected: EXPECTED.to_owned(),
            got: name.to_owned(),
            hint: "other architectures are not implemented",
        },
    }
}

struct Reader<'a> {
    metadata: &'a Metadata,
    arch: &'static str,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    /// The error that `value` at `key` asks for what is not implemented.
    fn unsupported(
        &self,
        key: String,
        expected: impl std::fmt::Display,
        got: impl std::fmt::Display,
        hint: &'static str,
    ) -> GgufError {
        GgufError::Unsupported {
            key,
            expected: expected.to_string(),
            got: got.to_string(),
            hint,
        }
    }

    fn size(&self, name: &str) -> Result<Option<usize>, GgufError> {
        self.metadata.uniform_size(&self.key(name))
    }

    fn needed_size(&self, name: &str) -> Result<usize, GgufError> {
        let expected = "a whole number";
        self.size(name)?.ok_or_else(|| GgufError::MissingKey {
            key: self.key(name),
            expected,
        })
    }

    fn float(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.metadata.float(&self.key(name))
    }

    /// Files that are only a part of a model, or are no model.
    fn check_general(&self) -> Result<(), GgufError> {
        let metadata = self.metadata;
        if let Some(kind) = metadata.text("general.type")?
            && kind != "model"
        {
            let hint = "convert the model itself: adapters, projectors and others are not read";
            return Err(self.unsupported("general.type".to_owned(), "model", kind, hint));
        }
        if let Some(parts) = metadata.uint("split.count")?
            && parts > 1
        {
            let hint = "this file is one part of several: join them with llama-gguf-split --merge";
            return Err(self.unsupported("split.count".to_owned(), "1", parts, hint));
        }
        if let Some(version) = metadata.uint("general.quantization_version")?
            && version != 2
        {
            let hint = "the blocks have another layout: convert the original model again";
            let key = "general.quantization_version".to_owned();
            return Err(self.unsupported(key, "2", version, hint));
        }
        Ok(())
    }

    /// Refuses what changes the result and is not implemented; notes what is not known.
    fn check_other_keys(&mut self) -> Result<(), GgufError> {
        for (key, value) in self.metadata.iter() {
            let own = key
                .strip_prefix(self.arch)
                .and_then(|k| k.strip_prefix('.'));
            let Some(name) = own.filter(|n| !READ.contains(n) && !NO_EFFECT.contains(n)) else {
                continue;
            };
            let refused = |r: &&(&str, f64, &str)| match r.0.strip_suffix(['.', '_']) {
                Some(_) => name.starts_with(r.0),
                // One word stands for all keys that begin with it.
                None if r.0 == "expert" => name.starts_with(r.0),
                None => name == r.0,
            };
            match REFUSED.iter().find(refused) {
                Some(&(_, neutral, hint)) => {
                    let number = match *value {
                        Value::Bool(b) => Some(f64::from(u8::from(b))),
                        ref other => other.as_f64(),
                    };
                    if number != Some(neutral) {
                        return Err(self.unsupported(key.to_owned(), neutral, value, hint));
                    }
                }
                None => self.notes.push(format!(
                    "key `{}` is not known and has no effect here",
                    super::error::Shown(key)
                )),
            }
        }
        Ok(())
    }

    /// The fields that say how large the model is.
    fn dimensions(&mut self, tensors: &[HeaderTensor]) -> Result<Map<String, Json>, GgufError> {
        let find = |name| tensors.iter().find(|t| t.name == name && !t.vector);
        let tensor = "token_embd.weight";
        let embeddings = find(tensor).ok_or(GgufError::MissingTensor { tensor })?;
        if let Some(vocab_size) = self.size("vocab_size")?
            && vocab_size != embeddings.rows
        {
            let expected = format_args!("{}, the rows of token_embd.weight", embeddings.rows);
            return Err(GgufError::value(
                self.key("vocab_size"),
                expected,
                vocab_size,
            ));
        }
        let dim = self.needed_size("embedding_length")?;
        let n_heads = self.needed_size("attention.head_count")?;
        let head_dim = self.head_dim(dim, n_heads)?;
        let eps = "attention.layer_norm_rms_epsilon";
        let norm_eps = self.float(eps)?.ok_or_else(|| GgufError::MissingKey {
            key: self.key(eps),
            expected: "a number",
        })?;
        let fields = [
            ("hidden_act", json!("silu")),
            ("hidden_size", dim.into()),
            (
                "intermediate_size",
                self.needed_size("feed_forward_length")?.into(),
            ),
            ("num_hidden_layers", self.needed_size("block_count")?.into()),
            ("num_attention_heads", n_heads.into()),
            (
                "num_key_value_heads",
                self.size("attention.head_count_kv")?
                    .unwrap_or(n_heads)
                    .into(),
            ),
            ("head_dim", head_dim.into()),
            ("vocab_size", embeddings.rows.into()),
            (
                "max_position_embeddings",
                self.needed_size("context_length")?.into(),
            ),
            ("rms_norm_eps", norm_eps.into()),
            (
                "tie_word_embeddings",
                find("output.weight").is_none().into(),
            ),
        ];
        Ok(fields
            .map(|(field, value)| (field.to_owned(), value))
            .into_iter()
            .collect())
    }

    fn head_dim(&self, dim: usize, n_heads: usize) -> Result<usize, GgufError> {
        let (key_length, value_length) = ("attention.key_length", "attention.value_length");
        let equal_shares = if n_heads > 0 && dim.is_multiple_of(n_heads) {
            Some(dim / n_heads)
        } else {
            None
        };
        let head_dim = self.size(key_length)?.or(equal_shares).ok_or_else(|| {
            let expected = format_args!(
                "a divisor of {}, which is {dim}, where {} is absent",
                self.key("embedding_length"),
                self.key(key_length)
            );
            GgufError::value(self.key("attention.head_count"), expected, n_heads)
        })?;
        let value = self
            .size(value_length)?
            .or(equal_shares)
            .unwrap_or(head_dim);
        if value != head_dim {
            let expected = format_args!("{head_dim}, the length of keys");
            let key = self.key(value_length);
            return Err(self.unsupported(key, expected, value, ATTENTION));
        }
        let rotated = self.size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotated != head_dim {
            let expected = format_args!("{head_dim}, the length of a head");
            let hint = "rotating a part of a head is not implemented";
            let key = self.key("rope.dimension_count");
            return Err(self.unsupported(key, expected, rotated, hint));
        }
        Ok(head_dim)
    }

    /// `rope_theta` and `rope_scaling`.
    fn rope(
        &mut self,
        tensors: &[HeaderTensor],
        factors: Option<&[f32]>,
    ) -> Result<(f64, Json), GgufError> {
        let theta = match self.float("rope.freq_base")? {
            Some(theta) => theta,
            None => {
                let key = self.key("rope.freq_base");
                self.notes
                    .push(format!("key `{key}` is absent: {DEFAULT_THETA} is used"));
                DEFAULT_THETA
            }
        };
        for tensor in ["rope_factors_long.weight", "rope_factors_short.weight"] {
            if tensors.iter().any(|t| t.name == tensor) {
                let got = format_args!("tensor {tensor}");
                let key = self.key("rope.scaling.type");
                return Err(self.unsupported(key, "none or linear", got, ROPE));
            }
        }
        let linear = self.linear_factor()?;
        let scaling = match (linear, factors) {
            (None, None) => Json::Null,
            (Some(factor), None) => json!({"rope_type": "linear", "factor": factor}),
            (None, Some(factors)) => match rope::llama3_factor(factors, theta) {
                Some(factor) => {
                    self.notes.push(format!(
                        "{ROPE_FREQS} is Llama 3's scaling with factor {factor}: computed from \
                         its definition"
                    ));
                    json!({
                        "rope_type": "llama3",
                        "factor": factor,
                        "low_freq_factor": LOW_FREQ_FACTOR,
                        "high_freq_factor": HIGH_FREQ_FACTOR,
                        "original_max_position_embeddings": ORIGINAL_MAX_SEQ_LEN,
                    })
                }
                None => json!({"rope_type": "factors", "factors": factors}),
            },
            (Some(factor), Some(_)) => {
                let expected = format_args!("no scaling where there is {ROPE_FREQS}");
                let key = self.key("rope.scaling.factor");
                return Err(self.unsupported(key, expected, factor, ROPE));
            }
        };
        Ok((theta, scaling))
    }

    /// The factor of linear scaling, where there is one that does anything.
    fn linear_factor(&self) -> Result<Option<f64>, GgufError> {
        let key = self.key("rope.scaling.type");
        // A factor without a type is of files from before there were types.
        let kind = self.metadata.text(&key)?.unwrap_or("linear");
        if !matches!(kind, "none" | "linear") {
            return Err(self.unsupported(key, "none or linear", kind, ROPE));
        }
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?,
        };
        // 0 stands for an absent factor.
        Ok(factor.filter(|&f| kind == "linear" && f != 0.0 && f != 1.0))
    }

    /// 0 stands for the usual scale, which some files spell out.
    fn check_attention_scale(&self, head_dim: f64) -> Result<(), GgufError> {
        let Some(scale) = self.float("attention.scale")? else {
            return Ok(());
        };
        let usual = 1.0 / head_dim.sqrt();
        if scale == 0.0 || (scale - usual).abs() <= 1e-6 * usual {
            return Ok(());
        }
        Err(self.unsupported(self.key("attention.scale"), usual, scale, SCALE))
    }

    /// The window of every layer, in positions.
    fn sliding_window(&self) -> Result<Option<usize>, GgufError> {
        let name = "attention.sliding_window";
        let window = self.size(name)?.filter(|&w| w > 0);
        match window {
            Some(window) if self.arch != "llama" => {
                let hint = "the file does not say which layers it holds for";
                Err(self.unsupported(self.key(name), 0, window, hint))
            }
            window => Ok(window),
        }
    }
}

/// `error` with the key that its field was made from.
fn in_gguf_terms(mut error: ConfigError, arch: &str) -> ConfigError {
    const NAMES: [(&str, &str); 12] = [
        ("hidden_size", "embedding_length"),
        ("intermediate_size", "feed_forward_length"),
        ("num_hidden_layers", "block_count"),
        ("num_attention_heads", "attention.head_count"),
        ("num_key_value_heads", "attention.head_count_kv"),
        ("head_dim", "attention.key_length"),
        ("vocab_size", "vocab_size"),
        ("max_position_embeddings", "context_length"),
        ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ("rope_theta", "rope.freq_base"),
        ("rope_scaling.factor", "rope.scaling.factor"),
        ("sliding_window", "attention.sliding_window"),
    ];
    if let ConfigError::Missing { field, .. }
    | ConfigError::Type { field, .. }
    | ConfigError::Range { field, .. }
    | ConfigError::Unsupported { field, .. }
    | ConfigError::Inconsistent { field, .. } = &mut error
    {
        if let Some((_, key)) = NAMES.iter().find(|n| n.0 == field) {
            *field = format!("{arch}.{key}");
        } else if field.starts_with("rope_scaling.factors") {
            *field = ROPE_FREQS.to_owned();
        }
    }
    error
}
