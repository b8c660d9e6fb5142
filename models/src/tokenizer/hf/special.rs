//! `added_tokens`, `post_processor`, and what `tokenizer_config.json` adds to them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{Fields, invalid, unsupported};
use crate::tokenizer::{
    TokenizerError,
    spec::{AddedToken, Special},
    vocab::MAX_IDS,
};

type Result<T> = std::result::Result<T, TokenizerError>;

/// Added tokens by id, and the ids by text.
pub(super) struct Added<'v> {
    tokens: BTreeMap<u32, AddedToken>,
    ids: BTreeMap<String, u32>,
    /// Looks a text up in the model's vocabulary.
    model_id: &'v dyn Fn(&str) -> Option<u32>,
}

impl<'v> Added<'v> {
    /// Reads `added_tokens`. Their ids have to be those that Hugging Face's tokenizers give them:
    /// the vocabulary's, else the next free ones.
    pub(super) fn read(
        value: Option<&Value>,
        n_model_tokens: usize,
        model_id: &'v dyn Fn(&str) -> Option<u32>,
    ) -> Result<Self> {
        let mut added = Self {
            tokens: BTreeMap::new(),
            ids: BTreeMap::new(),
            model_id,
        };
        let list = match value {
            None => &[][..],
            Some(Value::Array(list)) => list,
            Some(other) => return Err(invalid("added_tokens", "a list", other)),
        };
        let mut next = n_model_tokens as u32;
        for (i, value) in list.iter().enumerate() {
            let path = format!("added_tokens[{i}]");
            let mut fields = Fields::new(value, &path)?;
            let id = fields.number("id")?;
            let token = added_token(fields, id)?;
            let expected = added.id(&token.content).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            if id != expected {
                return Err(TokenizerError::Invalid {
                    path: format!("{path}.id"),
                    expected: "the id that the vocabulary or the order of the tokens gives it",
                    found: format!("{id}, which would be {expected}"),
                });
            }
            added.insert(token);
        }
        Ok(added)
    }

    /// Adds what `added_tokens_decoder` of `tokenizer_config.json` says; it holds where both speak
    /// of a token.
    pub(super) fn add_config(&mut self, config: &Value) -> Result<()> {
        let entries = match &config["added_tokens_decoder"] {
            Value::Null => return Ok(()),
            Value::Object(entries) => entries,
            other => return Err(invalid("added_tokens_decoder", "an object", other)),
        };
        for (key, value) in entries {
            let path = format!("added_tokens_decoder.{key}");
            let id = key
                .parse::<u32>()
                .ok()
                .filter(|&id| (id as usize) < MAX_IDS);
            let id = id.ok_or_else(|| invalid(&path, "called by an id", &key.as_str().into()))?;
            let mut token = added_token(Fields::new(value, &path)?, id)?;
            let other_id = self.id(&token.content).filter(|&known| known != id);
            let other_token = self
                .tokens
                .get(&id)
                .filter(|known| known.content != token.content);
            if other_id.is_some() || other_token.is_some() {
                return Err(invalid(
                    &path,
                    "the token that `tokenizer.json` has there",
                    value,
                ));
            }
            // A token that was special in one place stays so.
            token.special |= self.tokens.get(&id).is_some_and(|known| known.special);
            self.insert(token);
        }
        Ok(())
    }

    fn insert(&mut self, token: AddedToken) {
        self.ids.insert(token.content.clone(), token.id);
        self.tokens.insert(token.id, token);
    }

    /// The id of a token, added or the model's, by its text.
    fn id(&self, text: &str) -> Option<u32> {
        self.ids
            .get(text)
            .copied()
            .or_else(|| (self.model_id)(text))
    }

    /// The tokens that `tokenizer_config.json` names by their part in a text. One that the model
    /// has as an ordinary token becomes a special one.
    pub(super) fn named(&mut self, config: &Value, key: &'static str) -> Result<Option<u32>> {
        let value = &config[key];
        let text = match value {
            Value::Null => return Ok(None),
            Value::String(text) => text,
            Value::Object(token) => match token.get("content") {
                Some(Value::String(text)) => text,
                _ => return Err(invalid(key, "a token", value)),
            },
            _ => return Err(invalid(key, "a token", value)),
        };
        let Some(id) = self.id(text) else {
            // What fills up a batch or stands for the unknown never reaches the model from here;
            // transformers gives such a token an id for which the model has no embedding.
            if key == "pad_token" || key == "unk_token" {
                return Ok(None);
            }
            return Err(invalid(key, "a token of `tokenizer.json`", value));
        };
        if text.is_empty() {
            return Err(invalid(key, "a token", value));
        }
        self.tokens.entry(id).or_insert_with(|| AddedToken {
            id,
            content: text.clone(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        });
        Ok(Some(id))
    }

    pub(super) fn into_tokens(self) -> Vec<AddedToken> {
        self.tokens.into_values().collect()
    }
}

fn added_token(mut fields: Fields<'_>, id: u32) -> Result<AddedToken> {
    let content = fields.text("content")?.to_owned();
    if content.is_empty() || id as usize >= MAX_IDS {
        return Err(TokenizerError::Invalid {
            path: fields.path("content"),
            expected: "a text with an id below 4194304",
            found: format!("{content:?}, {id}"),
        });
    }
    let special = fields.bool_or("special", false)?;
    let token = AddedToken {
        id,
        content,
        single_word: fields.bool_or("single_word", false)?,
        lstrip: fields.bool_or("lstrip", false)?,
        rstrip: fields.bool_or("rstrip", false)?,
        normalized: fields.bool_or("normalized", !special)?,
        special,
    };
    // Which class of a Python program to make.
    fields.take("__type");
    fields.done()?;
    Ok(token)
}

/// What `post_processor` puts around a text.
#[derive(Default)]
pub(super) struct Around {
    pub(super) before: Option<u32>,
    pub(super) after: Option<u32>,
}

pub(super) fn post_processor(value: Option<&Value>) -> Result<Around> {
    let mut around = Around::default();
    let Some(value) = value else {
        return Ok(around);
    };
    let mut steps = vec![("post_processor".to_owned(), value)];
    let mut fields = Fields::new(value, "post_processor")?;
    if fields.text("type")? == "Sequence" {
        let list = fields.list("processors")?.iter().enumerate();
        steps = list
            .map(|(i, step)| (format!("post_processor.processors[{i}]"), step))
            .collect();
        fields.done()?;
    }
    let mut n_templates = 0;
    for (path, value) in steps {
        let mut fields = Fields::new(value, &path)?;
        match fields.text("type")? {
            // It corrects offsets, which nobody asks for.
            "ByteLevel" => {
                for key in ["add_prefix_space", "trim_offsets", "use_regex"] {
                    fields.bool_or(key, true)?;
                }
            }
            "TemplateProcessing" if n_templates == 0 => {
                n_templates += 1;
                around = template(&mut fields)?;
            }
            _ => return Err(unsupported(path, value)),
        }
        fields.done()?;
    }
    Ok(around)
}

/// `single`: at most one token, the text, at most one token.
fn template(fields: &mut Fields<'_>) -> Result<Around> {
    fields.list("pair")?; // two texts at once, which nobody encodes
    let tokens = fields.need("special_tokens")?;
    let mut around = Around::default();
    let mut text_seen = false;
    for (i, piece) in fields.list("single")?.iter().enumerate() {
        let path = format!("{}[{i}]", fields.path("single"));
        let mut kinds = Fields::new(piece, &path)?;
        let sequence = kinds.take("Sequence");
        let token = kinds.take("SpecialToken");
        kinds.done()?;
        let slot = if text_seen {
            &mut around.after
        } else {
            &mut around.before
        };
        match (sequence, token) {
            (Some(sequence), None) if !text_seen && sequence["id"] == "A" => text_seen = true,
            (None, Some(token)) if slot.is_none() => {
                let name = token["id"].as_str().unwrap_or_default();
                let path = format!("{}.{name}.ids", fields.path("special_tokens"));
                let ids = &tokens[name]["ids"];
                let id = match ids.as_array().map(Vec::as_slice) {
                    Some([id]) => id.as_u64().filter(|&id| id < MAX_IDS as u64),
                    _ => None,
                };
                *slot = Some(id.ok_or_else(|| invalid(&path, "a list of one id", ids))? as u32);
            }
            _ => return Err(unsupported(path, piece)),
        }
    }
    if !text_seen {
        let path = fields.path("single");
        return Err(invalid(
            &path,
            "a template with the text in it",
            fields.need("single")?,
        ));
    }
    Ok(around)
}

/// The parts of [`Special`], from both files. `add_bos_token` and `add_eos_token` hold over the
/// template, as in transformers.
pub(super) fn special(
    added: &mut Added<'_>,
    around: &Around,
    config: Option<&Value>,
) -> Result<Special> {
    let no_config = Value::Null;
    let config = config.unwrap_or(&no_config);
    let bos = added.named(config, "bos_token")?;
    let eos = added.named(config, "eos_token")?;
    let pad = added.named(config, "pad_token")?;
    let unk = added.named(config, "unk_token")?;
    let asked = |key: &'static str| match &config[key] {
        Value::Null => Ok(None),
        Value::Bool(asked) => Ok(Some(*asked)),
        other => Err(invalid(key, "true or false", other)),
    };
    let before_text = match asked("add_bos_token")? {
        Some(true) => Some(bos.ok_or_else(|| {
            invalid(
                "add_bos_token",
                "false where there is no `bos_token`",
                &true.into(),
            )
        })?),
        Some(false) => None,
        None => around.before,
    };
    let eos_after_text = match asked("add_eos_token")? {
        Some(asked) => asked,
        None => around.after.is_some() && (eos.is_none() || around.after == eos),
    };
    Ok(Special {
        before_text,
        eos_after_text,
        bos,
        eos,
        pad,
        unk,
    })
}
