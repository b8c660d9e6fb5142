//! `config.json` of a Hugging Face checkpoint.

use serde_json::{Map, Value};

use super::hf_fields::{NO_EFFECT, Neutral, READ, REFUSED};
use super::{Config, ConfigError, RopeScaling};
use crate::TokenId;
use crate::arch::{Arch, ArchId, WindowRule};

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

/// A value as an error shows it: at most 80 characters, nothing that a terminal would interpret.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    let mut shown: String = text.chars().take(80).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
        .chars()
        .flat_map(|c| {
            if c == '"' {
                vec![c]
            } else {
                c.escape_debug().collect()
            }
        })
        .collect()
}

/// The fields of one object; `null` counts as absent.
#[derive(Clone, Copy)]
struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    fn path(&self, field: &str) -> String {
        if self.prefix.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.prefix)
        }
    }

    fn typed<T>(
        &self,
        field: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let wrong = || ConfigError::Type {
            field: self.path(field),
            expected: expected.to_owned(),
            got: brief(value),
        };
        get(value).map(Some).ok_or_else(wrong)
    }

    fn size(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(field, "a whole number", |v| {
            v.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(field, "a number", Value::as_f64)
    }

    fn bool(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(field, "true or false", Value::as_bool)
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(field, "a string", Value::as_str)
    }

    fn needed<T>(
        &self,
        field: &str,
        expected: &str,
        value: Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        let missing = || ConfigError::Missing {
            field: self.path(field),
            expected: expected.to_owned(),
        };
        value?.ok_or_else(missing)
    }

    fn needed_size(&self, field: &str) -> Result<usize, ConfigError> {
        self.needed(field, "a whole number", self.size(field))
    }

    fn needed_number(&self, field: &str) -> Result<f64, ConfigError> {
        self.needed(field, "a number", self.number(field))
    }

    fn unsupported(&self, field: &str, expected: &str, hint: &'static str) -> ConfigError {
        ConfigError::Unsupported {
            field: self.path(field),
            expected: expected.to_owned(),
            got: brief(self.map.get(field).unwrap_or(&Value::Null)),
            hint,
        }
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
        if n_heads == 0 || !dim.is_multiple_of(n_heads) {
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

    fn rope(&mut self) -> Result<(f64, RopeScaling), ConfigError> {
        let f = self.fields;
        let object = |field: &'static str| {
            let map = f.typed(field, "an object", Value::as_object)?;
            Ok(map.map(|map| Fields { map, prefix: field }))
        };
        let (old, new) = (object("rope_scaling")?, object("rope_parameters")?);
        if let (Some(old), Some(new)) = (old, new)
            && old.map != new.map
        {
            let got = brief(&Value::Object(old.map.clone()));
            return Err(ConfigError::inconsistent(
                "rope_scaling",
                "the same as rope_parameters",
                got,
            ));
        }
        let scaling = new.or(old);
        let inner = scaling.map_or(Ok(None), |s| s.number("rope_theta"))?;
        let theta = match (f.number("rope_theta")?, inner) {
            (Some(outer), Some(inner)) if outer != inner => {
                let expected = format_args!("{inner} as in rope_parameters");
                return Err(ConfigError::inconsistent("rope_theta", expected, outer));
            }
            (Some(theta), _) | (None, Some(theta)) => theta,
            (None, None) => {
                self.note_default("rope_theta", &10_000);
                10_000.0
            }
        };
        Ok((theta, scaling.map_or(Ok(RopeScaling::None), rope_scaling)?))
    }

    fn window(
        &mut self,
        arch: &Arch,
        n_layers: usize,
    ) -> Result<(Option<usize>, Option<Vec<usize>>), ConfigError> {
        let f = self.fields;
        let named = self.layer_types(n_layers)?;
        let absent = !f.map.contains_key("sliding_window");
        let mut window = f.size("sliding_window")?;
        let layers: Option<Vec<usize>> = match arch.window {
            WindowRule::Never => {
                if window.take().is_some() {
                    self.notes.push(format!(
                        "config field `sliding_window` has no effect on {}",
                        arch.hf_class
                    ));
                }
                None
            }
            WindowRule::Everywhere { default } => {
                if absent {
                    self.note_default("sliding_window", &default);
                    window = Some(default);
                }
                None
            }
            WindowRule::FromLayer {
                default,
                max_window_layers,
            } => {
                if !f.bool("use_sliding_window")?.unwrap_or(false) {
                    window = None;
                } else if absent {
                    self.note_default("sliding_window", &default);
                    window = Some(default);
                }
                let from = f.size("max_window_layers")?.unwrap_or(max_window_layers);
                Some(
                    named
                        .clone()
                        .unwrap_or_else(|| (from.min(n_layers)..n_layers).collect()),
                )
            }
        };
        let windowed = match (&layers, window) {
            (_, None) => 0,
            (Some(layers), Some(_)) => layers.len(),
            (None, Some(_)) => n_layers,
        };
        // Where the rule takes its layers from elsewhere, `layer_types` may only repeat it.
        if named.is_some_and(|named| named.len() != windowed) {
            let expected = format!("{windowed} layers of \"sliding_attention\"");
            let hint = "this pattern contradicts the other sliding window fields";
            return Err(f.unsupported("layer_types", &expected, hint));
        }
        match (window, layers) {
            (Some(_), Some(layers)) if layers.is_empty() => Ok((None, None)),
            (Some(_), Some(layers)) if layers.len() == n_layers => Ok((window, None)),
            (Some(_), layers) => Ok((window, layers)),
            (None, _) => Ok((None, None)),
        }
    }

    /// The layers that `layer_types` gives a sliding window.
    fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<usize>>, ConfigError> {
        let f = self.fields;
        let Some(types) = f.typed("layer_types", "a list of strings", Value::as_array)? else {
            return Ok(None);
        };
        if types.len() != n_layers {
            let expected = format_args!("{n_layers} entries, one a layer");
            return Err(ConfigError::inconsistent(
                "layer_types",
                expected,
                types.len(),
            ));
        }
        let mut windowed = Vec::new();
        for (layer, kind) in types.iter().enumerate() {
            match kind.as_str() {
                Some("full_attention") => {}
                Some("sliding_attention") => windowed.push(layer),
                _ => {
                    return Err(ConfigError::Unsupported {
                        field: format!("layer_types[{layer}]"),
                        expected: "\"full_attention\" or \"sliding_attention\"".to_owned(),
                        got: brief(kind),
                        hint: "other kinds of layers are not implemented",
                    });
                }
            }
        }
        Ok(Some(windowed))
    }
}

/// `rope_scaling`, or `rope_parameters` of newer configs. `factors` is a form of ours: a GGUF source
/// puts its `rope_freqs` tensor there.
fn rope_scaling(f: Fields<'_>) -> Result<RopeScaling, ConfigError> {
    let (new, old) = (f.text("rope_type")?, f.text("type")?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        let expected = format_args!("\"{new}\" as in rope_type");
        return Err(ConfigError::inconsistent(
            f.path("type"),
            expected,
            brief(&Value::from(old)),
        ));
    }
    let kind = f.needed("rope_type", "a string", Ok(new.or(old)))?;
    let (scaling, used): (_, &[&str]) = match kind {
        "default" => (RopeScaling::None, &[]),
        "linear" => (
            RopeScaling::Linear {
                factor: f.needed_number("factor")?,
            },
            &["factor", "original_max_position_embeddings", "finetuned"],
        ),
        "llama3" => (
            RopeScaling::Llama3 {
                factor: f.needed_number("factor")?,
                low_freq_factor: f.needed_number("low_freq_factor")?,
                high_freq_factor: f.needed_number("high_freq_factor")?,
                original_max_seq_len: f.needed_size("original_max_position_embeddings")?,
            },
            &[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ],
        ),
        "factors" => (
            RopeScaling::Factors {
                factors: factors(f)?,
            },
            &["factors"],
        ),
        _ => {
            let field = if new.is_some() { "rope_type" } else { "type" };
            let hint = "this scaling is not implemented; the model cannot be converted faithfully";
            return Err(f.unsupported(field, "\"default\", \"linear\" or \"llama3\"", hint));
        }
    };
    let always = ["rope_type", "type", "rope_theta"];
    for (field, value) in f.map {
        let field = field.as_str();
        let neutral = match field {
            "partial_rotary_factor" => Neutral::One,
            _ => Neutral::Null,
        };
        if !always.contains(&field) && !used.contains(&field) && !neutral.holds(value) {
            let hint = "this key is not implemented for this type of scaling";
            return Err(ConfigError::Unsupported {
                field: f.path(brief(&Value::from(field)).trim_matches('"')),
                expected: neutral.expected().to_owned(),
                got: brief(value),
                hint,
            });
        }
    }
    Ok(scaling)
}

fn factors(f: Fields<'_>) -> Result<Vec<f32>, ConfigError> {
    let list = f.typed("factors", "a list of numbers", |v| {
        v.as_array()?
            .iter()
            .map(|v| v.as_f64().map(|v| v as f32))
            .collect()
    });
    f.needed("factors", "a list of numbers", list)
}
