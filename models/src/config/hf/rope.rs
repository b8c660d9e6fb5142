//! `rope_theta`, `rope_scaling` and `rope_parameters`.

use serde_json::Value;

use super::Reader;
use super::fields::{Fields, brief};
use super::lists::Neutral;
use crate::{ConfigError, RopeScaling};

impl Reader<'_> {
    /// Base and scaling.
    pub(super) fn rope(&mut self) -> Result<(f64, RopeScaling), ConfigError> {
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
