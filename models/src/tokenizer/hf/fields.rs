//! Reading JSON so that nothing is passed over: each field is taken by its name, and what is left
//! at the end is an error that names it.

use serde_json::{Map, Value};

use crate::tokenizer::TokenizerError;

/// An object and where it stands.
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    taken: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(value: &'a Value, path: &str) -> Result<Self, TokenizerError> {
        match value {
            Value::Object(map) => Ok(Self {
                path: path.to_owned(),
                map,
                taken: Vec::new(),
            }),
            other => Err(invalid(path, "an object", other)),
        }
    }

    /// Where field `key` stands.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The field's value; null and missing are the same.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.taken.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn need(&mut self, key: &'static str) -> Result<&'a Value, TokenizerError> {
        self.take(key)
            .ok_or_else(|| invalid(&self.path(key), "there", &Value::Null))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<&'a str, TokenizerError> {
        let value = self.need(key)?;
        value
            .as_str()
            .ok_or_else(|| invalid(&self.path(key), "a text", value))
    }

    /// A single character.
    pub(super) fn character(&mut self, key: &'static str) -> Result<char, TokenizerError> {
        let text = self.text(key)?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => Err(invalid(&self.path(key), "one character", &self.map[key])),
        }
    }

    pub(super) fn list(&mut self, key: &'static str) -> Result<&'a [Value], TokenizerError> {
        let value = self.need(key)?;
        match value {
            Value::Array(list) => Ok(list),
            other => Err(invalid(&self.path(key), "a list", other)),
        }
    }

    pub(super) fn bool_or(
        &mut self,
        key: &'static str,
        default: bool,
    ) -> Result<bool, TokenizerError> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| invalid(&self.path(key), "true or false", value)),
        }
    }

    pub(super) fn bool(&mut self, key: &'static str) -> Result<bool, TokenizerError> {
        self.need(key)?;
        self.bool_or(key, false)
    }

    /// A number that fits 32 bits.
    pub(super) fn number(&mut self, key: &'static str) -> Result<u32, TokenizerError> {
        let value = self.need(key)?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| invalid(&self.path(key), "a whole number", value))
    }

    /// Fails if a field has not been taken and is not null.
    pub(super) fn done(self) -> Result<(), TokenizerError> {
        let known = |key: &&String| self.taken.contains(&key.as_str());
        match self
            .map
            .iter()
            .find(|(key, value)| !known(key) && !value.is_null())
        {
            None => Ok(()),
            Some((key, value)) => Err(TokenizerError::Unsupported {
                path: self.path(key),
                found: describe(value),
            }),
        }
    }
}

pub(super) fn invalid(path: &str, expected: &'static str, found: &Value) -> TokenizerError {
    TokenizerError::Invalid {
        path: path.to_owned(),
        expected,
        found: describe(found),
    }
}

pub(super) fn unsupported(path: String, found: &Value) -> TokenizerError {
    TokenizerError::Unsupported {
        path,
        found: describe(found),
    }
}

/// A value in a few words.
fn describe(value: &Value) -> String {
    const MAX: usize = 60;
    match value {
        Value::Null => "missing".to_owned(),
        Value::Object(map) if map.is_empty() => "an empty object".to_owned(),
        Value::Object(map) => {
            let kind = map.get("type").and_then(Value::as_str);
            kind.map_or_else(
                || "an object".to_owned(),
                |kind| format!("an object `{kind}`"),
            )
        }
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::String(text) if text.chars().count() > MAX => {
            format!("{:?}...", text.chars().take(MAX).collect::<String>())
        }
        other => other.to_string(),
    }
}
