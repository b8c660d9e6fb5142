//! `config.json` of a Hugging Face checkpoint.

mod fields;
mod lists;
mod rope;
mod window;

use serde_json::Value;

use self::fields::{Fields, brief};
use self::lists::{NO_EFFECT, Neutral, READ, REFUSED};
use super::{Config, ConfigError, MAX_EMBEDDING_DIM};
use crate::TokenId;
use crate::arch::{Arch, ArchId};

/// A `config.json`, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// The config.
    pub config: Config,
    /// What a user should hear of: fields that are not known, defaults that stand in for absent
    /// fields. One sentence each, without a full stop.
    pub notes: Vec<String>,
}

impl HfConfig {
    /// Reads and validates a `config.json`.
    ///
    /// Absent fields have transformers' defaults; those that are likelier forgotten than meant are
    /// noted.
    ///
    /// # Errors
    ///
    /// A field that is needed and absent, that has the wrong kind, that leaves its range, or that asks
    /// for what is not implemented.
    pub fn parse(json: &Value) -> Result<Self, ConfigError> {
        let Value::Object(map) = json else {
            return Err(ConfigError::NotAnObject { got: brief(json) });
        };
        let mut reader = Reader {
            fields: Fields { map, prefix: "" },
            notes: Vec::new(),
        };
        let arch = reader.arch()?.arch();
        reader.check_other_fields(arch)?;
        let config = reader.config(arch)?;
        config.validate().map_err(in_hf_terms)?;
        Ok(Self {
            config,
            notes: reader.notes,
        })
    }
}

/// Names of ours that [`Config::validate`] uses, in the source's spelling.
fn in_hf_terms(error: ConfigError) -> ConfigError {
    const NAMES: &[(&str, &str)] = &[
        ("dim", "hidden_size"),
        ("ffn_dim", "intermediate_size"),
        ("n_layers", "num_hidden_layers"),
        ("n_heads", "num_attention_heads"),
        ("n_kv_heads", "num_key_value_heads"),
        ("max_seq_len", "max_position_embeddings"),
        ("norm_eps", "rms_norm_eps"),
        ("eos_token_ids", "eos_token_id"),
        ("windowed_layers", "layer_types"),
        (
            "rope_scaling.original_max_seq_len",
            "rope_scaling.original_max_position_embeddings",
        ),
    ];
    let hf = |field: String| {
        NAMES
            .iter()
            .find(|n| n.0 == field)
            .map_or(field, |n| n.1.to_owned())
    };
    match error {
        ConfigError::Range {
            field,
            expected,
            got,
        } => ConfigError::Range {
            field: hf(field),
            expected,
            got,
        },
        ConfigError::Inconsistent {
            field,
            expected,
            got,
        } => ConfigError::Inconsistent {
            field: hf(field),
            expected,
            got,
        },
        other => other,
    }
}

struct Reader<'a> {
    fields: Fields<'a>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn note_default(&mut self, field: &str, default: &dyn std::fmt::Display) {
        self.notes.push(format!(
            "config field `{field}` is absent: transformers' default {default} is used"
        ));
    }

    fn arch(&mut self) -> Result<ArchId, ConfigError> {
        let f = self.fields;
        let model_type = f.text("model_type")?;
        let classes = f.typed("architectures", "a list of class names", Value::as_array)?;
        let Some(classes) = classes.filter(|c| !c.is_empty()) else {
            let field = "model_type";
            let name = f.needed(field, "llama, mistral, qwen2 or qwen3", Ok(model_type))?;
            let unknown = || ConfigError::UnknownArch {
                field: field.to_owned(),
                got: brief(&Value::from(name)),
            };
            let arch = ArchId::from_model_type(name).ok_or_else(unknown)?;
            let class = arch.arch().hf_class;
            self.notes.push(format!(
                "config field `architectures` is absent: {class} is assumed from `model_type`"
            ));
            return Ok(arch);
        };
        let known = |class: &Value| class.as_str().and_then(ArchId::from_hf_class);
        let (Some(arch), 1) = (known(&classes[0]), classes.len()) else {
            return Err(ConfigError::UnknownArch {
                field: "architectures".to_owned(),
                got: brief(&Value::from(classes.clone())),
            });
        };
        // transformers chooses the class by `model_type`, so the two must agree.
        let model_type = model_type.unwrap_or(arch.arch().model_type);
        if model_type != arch.arch().model_type {
            return Err(ConfigError::inconsistent(
                "model_type",
                format_args!(
                    "\"{}\" as in {}",
                    arch.arch().model_type,
                    arch.arch().hf_class
                ),
                brief(&Value::from(model_type)),
            ));
        }
        Ok(arch)
    }

    /// Refuses what changes the result and is not implemented; notes what is not known.
    fn check_other_fields(&mut self, arch: &Arch) -> Result<(), ConfigError> {
        let f = self.fields;
        for (field, neutral, hint) in REFUSED {
            if f.get(field).is_some_and(|v| !neutral.holds(v)) {
                return Err(f.unsupported(field, neutral.expected(), hint));
            }
        }
        for field in ["hidden_act", "hidden_activation"] {
            if !matches!(f.text(field)?, None | Some("silu" | "swish")) {
                let hint = "only SwiGLU feed-forward networks are implemented";
                return Err(f.unsupported(field, "\"silu\"", hint));
            }
        }
        if let Some(bias) = f.bool("attention_bias")?
            && bias != arch.qkv_bias
        {
            let (expected, hint) = if bias {
                (
                    "false",
                    "biases of the attention matrices are only implemented for Qwen2",
                )
            } else {
                ("true", "Qwen2 without biases is not implemented")
            };
            return Err(f.unsupported("attention_bias", expected, hint));
        }
        if f.get("pretraining_tp")
            .is_some_and(|v| !Neutral::One.holds(v))
        {
            self.notes.push(
                "config field `pretraining_tp` has no effect here: matrices are multiplied whole"
                    .to_owned(),
            );
        }
        for field in f.map.keys() {
            let field = field.as_str();
            let known = REFUSED.iter().any(|r| r.0 == field)
                || READ.contains(&field)
                || NO_EFFECT.contains(&field);
            if !known && f.get(field).is_some() {
                let shown = brief(&Value::from(field));
                self.notes.push(format!(
                    "config field {shown} is not known and has no effect here"
                ));
            }
        }
        Ok(())
    }

    fn config(&mut self, arch: &Arch) -> Result<Config, ConfigError> {
        let f = self.fields;
        let (dim, n_heads) = (
            f.needed_size("hidden_size")?,
            f.needed_size("num_attention_heads")?,
        );
        let n_layers = f.needed_size("num_hidden_layers")?;
        let (rope_theta, rope_scaling) = self.rope()?;
        let (sliding_window, windowed_layers) = self.window(arch, n_layers)?;
        Ok(Config {
            arch: arch.id,
            dim,
            ffn_dim: f.needed_size("intermediate_size")?,
            n_layers,
            n_heads,
            n_kv_heads: self.n_kv_heads(arch, n_heads)?,
            head_dim: self.head_dim(arch, dim, n_heads)?,
            vocab_size: f.needed_size("vocab_size")?,
            max_seq_len: f.needed_size("max_position_embeddings")?,
            norm_eps: match f.number("rms_norm_eps")? {
                Some(eps) => eps as f32,
                None => {
                    self.note_default("rms_norm_eps", &"1e-6");
                    1e-6
                }
            },
            rope_theta,
            rope_scaling,
            tied_embeddings: f.bool("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: arch.qkv_bias,
            qk_norm: arch.qk_norm,
            sliding_window,
            windowed_layers,
            bos_token_id: self.ids("bos_token_id")?.first().copied(),
            eos_token_ids: self.ids("eos_token_id")?,
        })
    }

    fn n_kv_heads(&self, arch: &Arch, n_heads: usize) -> Result<usize, ConfigError> {
        let field = "num_key_value_heads";
        // Given as null it means one for each query head in every class; absent, the classes differ.
        if arch.kv_heads_optional || self.fields.map.get(field).is_some_and(Value::is_null) {
            return Ok(self.fields.size(field)?.unwrap_or(n_heads));
        }
        self.fields.needed_size(field)
    }

    fn head_dim(&mut self, arch: &Arch, dim: usize, n_heads: usize) -> Result<usize, ConfigError> {
        if let Some(head_dim) = self.fields.size("head_dim")? {
            return Ok(head_dim);
        }
        if let Some(head_dim) = arch.default_head_dim
            && !self.fields.map.contains_key("head_dim")
        {
            self.note_default("head_dim", &head_dim);
            return Ok(head_dim);
        }
        if n_heads == 0 || dim > MAX_EMBEDDING_DIM {
            // `Config::validate` names the field that is at fault.
            return Ok(0);
        }
        if !dim.is_multiple_of(n_heads) {
            let expected =
                format_args!("a divisor of hidden_size, {dim}, where head_dim is absent");
            return Err(ConfigError::inconsistent(
                "num_attention_heads",
                expected,
                n_heads,
            ));
        }
        Ok(dim / n_heads)
    }

    fn ids(&self, field: &str) -> Result<Vec<TokenId>, ConfigError> {
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok()).map(TokenId);
        let ids = self
            .fields
            .typed(field, "a token id or a list of them", |v| match v {
                Value::Array(list) => list.iter().map(id).collect(),
                other => id(other).map(|id| vec![id]),
            })?;
        Ok(ids.unwrap_or_default())
    }
}
