//! Where a checkpoint keeps its templates.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ChatError;

/// The chat templates of a checkpoint by their names. A single one is called `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateSources {
    /// Name and source.
    pub templates: BTreeMap<String, String>,
}

impl TemplateSources {
    /// Finds the templates.
    ///
    /// * `tokenizer_config`: `tokenizer_config.json`, whose `chat_template` is a text or a list of
    ///   `{name, template}`.
    /// * `jinja`: the content of `chat_template.jinja`, which holds over the other file.
    ///
    /// # Errors
    ///
    /// [`ChatError::NotATemplate`] where `chat_template` is something else.
    pub fn find(tokenizer_config: Option<&Value>, jinja: Option<&str>) -> Result<Self, ChatError> {
        let default = |source: &str| Self {
            templates: [("default".to_owned(), source.to_owned())].into(),
        };
        if let Some(jinja) = jinja {
            return Ok(default(jinja));
        }
        match tokenizer_config.map(|config| &config["chat_template"]) {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(Value::String(source)) => Ok(default(source)),
            Some(Value::Array(list)) => {
                let entry = |entry: &Value| {
                    let text = |key| entry[key].as_str().map(str::to_owned);
                    let named = text("name").zip(text("template"));
                    named.ok_or(ChatError::NotATemplate {
                        expected: "a list of objects with `name` and `template`",
                    })
                };
                Ok(Self {
                    templates: list.iter().map(entry).collect::<Result<_, _>>()?,
                })
            }
            Some(_) => Err(ChatError::NotATemplate {
                expected: "a text or a list",
            }),
        }
    }

    /// The template for a conversation: `tool_use` where there are tools and one is called so,
    /// else `default`. `Ok(None)`: the checkpoint has none.
    ///
    /// # Errors
    ///
    /// [`ChatError::NoDefault`] where there are templates and none of them is `default`.
    pub fn pick(&self, with_tools: bool) -> Result<Option<&str>, ChatError> {
        let tool_use = self.templates.get("tool_use").filter(|_| with_tools);
        match tool_use.or_else(|| self.templates.get("default")) {
            Some(source) => Ok(Some(source)),
            None if self.templates.is_empty() => Ok(None),
            None => Err(ChatError::NoDefault {
                names: self.templates.keys().cloned().collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_file_holds_over_the_config() {
        let config = json!({"chat_template": "config"});
        let found = TemplateSources::find(Some(&config), Some("file")).unwrap();
        assert_eq!(found.pick(false).unwrap(), Some("file"));
        let found = TemplateSources::find(Some(&config), None).unwrap();
        assert_eq!(found.pick(true).unwrap(), Some("config"));
        let found = TemplateSources::find(Some(&json!({})), None).unwrap();
        assert_eq!(found.pick(false).unwrap(), None);
    }

    #[test]
    fn a_list_has_a_template_for_each_use() {
        let entry = |name, template| json!({"name": name, "template": template});
        let config = json!({"chat_template": [entry("default", "a"), entry("tool_use", "b")]});
        let found = TemplateSources::find(Some(&config), None).unwrap();
        assert_eq!(found.pick(false).unwrap(), Some("a"));
        assert_eq!(found.pick(true).unwrap(), Some("b"));
        let config = json!({"chat_template": [entry("rag", "c")]});
        let err = TemplateSources::find(Some(&config), None)
            .unwrap()
            .pick(false)
            .unwrap_err();
        assert_eq!(
            err.to_string(),
            "none of the chat templates `rag` is called `default`"
        );
    }

    #[test]
    fn anything_else_is_no_template() {
        for value in [json!(1), json!({}), json!([1]), json!([{"name": "x"}])] {
            let config = json!({"chat_template": value});
            assert!(
                TemplateSources::find(Some(&config), None).is_err(),
                "{config}"
            );
        }
    }
}
