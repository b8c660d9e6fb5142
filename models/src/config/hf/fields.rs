//! Typed access to the fields of a JSON object.

use serde_json::{Map, Value};

use crate::ConfigError;

/// A value as an error shows it: at most 80 characters, nothing that a terminal would interpret.
pub(super) fn brief(value: &Value) -> String {
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
pub(super) struct Fields<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) prefix: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    pub(super) fn path(&self, field: &str) -> String {
        if self.prefix.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.prefix)
        }
    }

    pub(super) fn typed<T>(
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

    pub(super) fn size(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(field, "a whole number", |v| {
            v.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(field, "a number", Value::as_f64)
    }

    pub(super) fn bool(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(field, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(field, "a string", Value::as_str)
    }

    pub(super) fn needed<T>(
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

    pub(super) fn needed_size(&self, field: &str) -> Result<usize, ConfigError> {
        self.needed(field, "a whole number", self.size(field))
    }

    pub(super) fn needed_number(&self, field: &str) -> Result<f64, ConfigError> {
        self.needed(field, "a number", self.number(field))
    }

    pub(super) fn unsupported(
        &self,
        field: &str,
        expected: &str,
        hint: &'static str,
    ) -> ConfigError {
        ConfigError::Unsupported {
            field: self.path(field),
            expected: expected.to_owned(),
            got: brief(self.map.get(field).unwrap_or(&Value::Null)),
            hint,
        }
    }
}
