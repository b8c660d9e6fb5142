//! What stands beside the weights: tokenizer, chat template, generation defaults.

use std::path::Path;

use serde_json::{Map, Value};

use super::{HfError, MAX_JSON, json};
use crate::source::{Generation, SourceError, TokenizerFiles, read_small};

/// Llama 3's `tokenizer.json` has 17 MB, Gemma's 33.
const MAX_TOKENIZER: u64 = 256 << 20;

/// The JSON object in `dir/name`, `None` where there is no such file.
pub(super) fn object(dir: &Path, name: &str) -> Result<Option<Map<String, Value>>, SourceError> {
    let path = dir.join(name);
    let Some(bytes) = read_small(&path, MAX_JSON)? else {
        return Ok(None);
    };
    match json::object(&bytes) {
        Ok(object) => Ok(Some(object)),
        Err(cause) => Err(HfError::Json { path, cause }.into()),
    }
}

/// `tokenizer.json`, and `tokenizer_config.json` with what only `special_tokens_map.json` says.
pub(super) fn tokenizer(dir: &Path) -> Result<TokenizerFiles, SourceError> {
    let Some(tokenizer_json) = read_small(&dir.join("tokenizer.json"), MAX_TOKENIZER)? else {
        return Err(SourceError::NoTokenizer {
            path: dir.to_owned(),
            sentencepiece_only: dir.join("tokenizer.model").exists(),
        });
    };
    let mut config = object(dir, "tokenizer_config.json")?;
    if let Some(map) = object(dir, "special_tokens_map.json")? {
        let config = config.get_or_insert_default();
        for (key, value) in map {
            config.entry(key).or_insert(value);
        }
    }
    Ok(TokenizerFiles {
        tokenizer_json,
        tokenizer_config: config.map(Value::Object),
    })
}

/// The template that renders a chat: `chat_template.jinja`, else the one inside
/// `tokenizer_config.json`.
pub(super) fn chat_template(dir: &Path) -> Result<Option<String>, SourceError> {
    let path = dir.join("chat_template.jinja");
    if let Some(bytes) = read_small(&path, MAX_JSON)? {
        return match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(HfError::NotText { path }.into()),
        };
    }
    let name = "tokenizer_config.json";
    let config = object(dir, name)?;
    let value = config.as_ref().and_then(|c| c.get("chat_template"));
    // Several templates are a list of names and texts; chat uses the one named `default`.
    let template = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|t| t.get("template")),
        value => value,
    };
    match template.and_then(Value::as_str) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(HfError::Field {
            path: dir.join(name),
            field: "chat_template".to_owned(),
            expected: "a text, or a list with a template named `default`",
            got: short(value.unwrap_or(&Value::Null)),
        }
        .into()),
    }
}

/// `generation_config.json`; where it is silent about BOS and EOS, `config`, which is
/// `config.json`.
pub(super) fn generation(
    dir: &Path,
    config: &Map<String, Value>,
) -> Result<Generation, SourceError> {
    let name = "generation_config.json";
    let own = object(dir, name)?.unwrap_or_default();
    let field = |key: &'static str| Field {
        dir,
        name,
        object: &own,
        key,
    };
    let ids = |key: &'static str| -> Result<Vec<u32>, SourceError> {
        match field(key).token_ids()? {
            ids if ids.is_empty() => Field {
                dir,
                name: "config.json",
                object: config,
                key,
            }
            .token_ids(),
            ids => Ok(ids),
        }
    };
    Ok(Generation {
        do_sample: field("do_sample").bool()?,
        eos: ids("eos_token_id")?,
        bos: ids("bos_token_id")?.first().copied(),
        temperature: field("temperature").float()?,
        top_k: field("top_k").uint()?,
        top_p: field("top_p").float()?,
        min_p: field("min_p").float()?,
        repetition_penalty: field("repetition_penalty").positive()?,
    })
}

/// A field of a JSON file, for errors that say where it stands.
#[derive(Clone, Copy)]
struct Field<'a> {
    dir: &'a Path,
    name: &'static str,
    object: &'a Map<String, Value>,
    key: &'static str,
}

impl Field<'_> {
    fn value(&self) -> Option<&Value> {
        self.object.get(self.key).filter(|v| !v.is_null())
    }

    fn error(&self, expected: &'static str) -> SourceError {
        HfError::Field {
            path: self.dir.join(self.name),
            field: self.key.to_owned(),
            expected,
            got: short(self.value().unwrap_or(&Value::Null)),
        }
        .into()
    }

    fn float(&self) -> Result<Option<f32>, SourceError> {
        let Some(value) = self.value() else {
            return Ok(None);
        };
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_finite() && x >= 0.0 => Ok(Some(x)),
            _ => Err(self.error("a number that is not negative")),
        }
    }

    fn positive(&self) -> Result<Option<f32>, SourceError> {
        match self.float()? {
            Some(0.0) => Err(self.error("a number above 0")),
            number => Ok(number),
        }
    }

    fn bool(&self) -> Result<Option<bool>, SourceError> {
        let Some(value) = self.value() else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.error("true or false"))
    }

    fn uint(&self) -> Result<Option<u32>, SourceError> {
        let Some(value) = self.value() else {
            return Ok(None);
        };
        match value.as_u64().map(u32::try_from) {
            Some(Ok(n)) => Ok(Some(n)),
            _ => Err(self.error("an integer that is not negative")),
        }
    }

    /// One token id or a list of them; none where the field is absent.
    fn token_ids(&self) -> Result<Vec<u32>, SourceError> {
        let list = match self.value() {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        list.iter()
            .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| self.error("a token id or a list of them"))
    }
}

/// `value` as JSON, cut where it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
