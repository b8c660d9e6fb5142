//! What a template is given.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation, in the form of OpenAI's API: the JSON of one reads as this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What it says: a text, a list of parts, or null beside `tool_calls`.
    #[serde(default)]
    pub content: Value,
    /// The other fields, as they are: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message that is a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Value::String(content.into()),
            extra: Map::new(),
        }
    }

    /// The system's instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The message as a template sees it. What the model thought before it spoke goes by three
    /// names in templates; as in transformers each of them stands for the others.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let thought = ["reasoning_content", "thinking", "reasoning"]
            .iter()
            .find_map(|&name| self.extra.get(name).filter(|value| !value.is_null()));
        if let Some(thought) = thought {
            fields.insert("thinking".to_owned(), thought.clone());
        }
        fields.insert("role".to_owned(), self.role.clone().into());
        fields.insert("content".to_owned(), self.content.clone());
        fields.extend(self.extra.clone());
        if let Some(thought) = thought {
            fields.insert("reasoning_content".to_owned(), thought.clone());
        }
        Value::Object(fields)
    }
}

/// The texts of special tokens, as `tokenizer_config.json` names them; templates write them down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `bos_token`.
    pub bos: Option<String>,
    /// `eos_token`.
    pub eos: Option<String>,
    /// `unk_token`.
    pub unk: Option<String>,
    /// `pad_token`.
    pub pad: Option<String>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json`; a token there is a text, or an object with its `content`.
    pub fn from_config(tokenizer_config: &Value) -> Self {
        let token = |key: &str| {
            let value = &tokenizer_config[key];
            value
                .as_str()
                .or_else(|| value["content"].as_str())
                .map(str::to_owned)
        };
        Self {
            bos: token("bos_token"),
            eos: token("eos_token"),
            unk: token("unk_token"),
            pad: token("pad_token"),
        }
    }

    /// The variables that a template sees: those that are set.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("unk_token", &self.unk),
            ("pad_token", &self.pad),
        ];
        named
            .into_iter()
            .filter_map(|(name, text)| Some((name, text.as_deref()?)))
    }
}

/// A moment, for templates that write the date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// How far the local clock is ahead of UTC, in seconds; transformers shows local time.
    pub utc_offset_seconds: i32,
}

/// What else a template is given.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the start of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Descriptions of the tools that the model may call, in the form of OpenAI's API; empty: none.
    pub tools: Vec<Value>,
    /// Documents to answer from, with `title` and `text`; empty: none.
    pub documents: Vec<Value>,
    /// Further variables: `enable_thinking`, ...
    pub extra: Map<String, Value>,
    /// What `strftime_now` says; `None`: a template that asks for it fails.
    pub now: Option<Moment>,
}
