//! A template, compiled, and the bounds inside which it runs.

use std::{error::Error as _, fmt, io};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Value, syntax::SyntaxConfig, value::Serde,
};

use super::{
    error::{ChatError, Place},
    message::{Message, RenderOptions, SpecialTokens},
    python,
};

const NAME: &str = "chat_template";
/// Steps that any template may take, and so many more for each byte of what it is given. A template
/// takes a few hundred steps a message.
const FUEL: u64 = 1_000_000;
const FUEL_PER_BYTE: u64 = 16;
/// Bytes that any template may make, and so many more for each byte of what it is given.
const OUTPUT: usize = 1 << 20;
const OUTPUT_PER_BYTE: usize = 8;
/// Blocks and macros in each other go at most so deep.
const MAX_RECURSION: usize = 120;

/// A chat template, as Hugging Face's transformers renders it.
///
/// Jinja with `trim_blocks`, `lstrip_blocks`, loop controls, Python's methods of strings, lists and
/// dicts, `raise_exception(message)`, `strftime_now(format)`, `tojson` that escapes no HTML, and
/// `{% generation %}` blocks, which render as their content. A template comes from a model's
/// author, not from the user: what it can do is bounded in steps, memory, depth and output.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    special: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    ///
    /// [`ChatError::Syntax`] with line and column.
    pub fn new(source: impl Into<String>, special: SpecialTokens) -> Result<Self, ChatError> {
        let source = with_generation_blocks(source.into());
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        env.set_syntax(syntax.map_err(|err| chat_error(err, ""))?);
        env.set_debug(true); // errors know their place
        env.set_recursion_limit(MAX_RECURSION);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", python::tojson);
        env.add_function("raise_exception", raise_exception);
        env.add_template_owned(NAME, source.clone())
            .map_err(|err| chat_error(err, &source))?;
        Ok(Self { env, special })
    }

    /// The text of a conversation. It contains special tokens: encode it with
    /// [`Specials::Parse`](crate::tokenizer::Specials::Parse), and put no
    /// [`bos`](crate::tokenizer::Tokenizer::bos) before it, for the template has done so.
    ///
    /// # Errors
    ///
    /// [`ChatError::Raised`] where the template refuses the conversation, [`ChatError::Render`]
    /// where it cannot be followed, [`ChatError::TooMuchWork`] and [`ChatError::TooLong`] where it
    /// does not end in time. All but the last say where in the template.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, ChatError> {
        let json: Vec<_> = messages.iter().map(Message::to_json).collect();
        let given = json.iter().chain(&options.tools).chain(&options.documents);
        let given_bytes: usize = given.chain(options.extra.values()).map(json_bytes).sum();

        let some = |list: &[serde_json::Value]| match list {
            [] => Value::from(()),
            list => Value::from(Serde(list)),
        };
        let mut variables: Vec<(String, Value)> = Vec::new();
        for (name, text) in self.special.variables() {
            variables.push((name.to_owned(), Value::from(text)));
        }
        variables.push(("messages".to_owned(), Value::from(Serde(&json))));
        variables.push(("tools".to_owned(), some(&options.tools)));
        variables.push(("documents".to_owned(), some(&options.documents)));
        let prompt = Value::from(options.add_generation_prompt);
        variables.push(("add_generation_prompt".to_owned(), prompt));
        for (name, value) in &options.extra {
            variables.push((name.clone(), Value::from(Serde(value))));
        }

        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + FUEL_PER_BYTE * given_bytes as u64));
        let now = options.now;
        env.add_function("strftime_now", move |format: String| {
            let failed = |detail: String| Error::new(ErrorKind::InvalidOperation, detail);
            let now =
                now.ok_or_else(|| failed("strftime_now: the time is not known".to_owned()))?;
            python::strftime(now, &format)
                .ok_or_else(|| failed(format!("strftime_now: `{format}` cannot be written")))
        });
        let max = OUTPUT + OUTPUT_PER_BYTE * given_bytes;
        let mut out = Bounded {
            text: Vec::new(),
            max,
            full: false,
        };
        let template = env.get_template(NAME).map_err(|err| chat_error(err, ""))?;
        let rendered = template.render_captured_to(Value::from_pairs(variables), &mut out);
        if out.full {
            return Err(ChatError::TooLong { max });
        }
        rendered.map_err(|err| chat_error(err, template.source()))?;
        String::from_utf8(out.text).map_err(|_| ChatError::Render {
            place: None,
            message: "the rendered text is not UTF-8".to_owned(),
        })
    }
}

/// About how many bytes a value has.
fn json_bytes(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + 8,
        serde_json::Value::Array(list) => list.iter().map(json_bytes).sum::<usize>() + 8,
        serde_json::Value::Object(map) => {
            map.iter()
                .map(|(key, value)| key.len() + json_bytes(value))
                .sum::<usize>()
                + 8
        }
        _ => 8,
    }
}

/// Takes so many bytes and no more.
struct Bounded {
    text: Vec<u8>,
    max: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max - self.text.len() {
            self.full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template says by `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

fn chat_error(err: Error, source: &str) -> ChatError {
    let column = err.range().and_then(|range| {
        let before = source.get(..range.start)?;
        Some(before.chars().rev().take_while(|&c| c != '\n').count() + 1)
    });
    let place = err.line().map(|line| Place { line, column });
    let mut cause = err.source();
    let mut deepest = None;
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return ChatError::Raised {
                place,
                message: message.clone(),
            };
        }
        if inner
            .downcast_ref::<Error>()
            .is_some_and(|err| err.kind() == ErrorKind::OutOfFuel)
        {
            return ChatError::TooMuchWork { place };
        }
        deepest = Some(inner);
        cause = inner.source();
    }
    let mut message = match err.detail() {
        Some(detail) => format!("{}: {detail}", err.kind()),
        None => err.kind().to_string(),
    };
    if let Some(deepest) = deepest {
        message = format!("{message}: {deepest}");
    }
    match err.kind() {
        ErrorKind::OutOfFuel => ChatError::TooMuchWork { place },
        ErrorKind::SyntaxError | ErrorKind::BadEscape => ChatError::Syntax { place, message },
        _ => ChatError::Render { place, message },
    }
}

/// `{% generation %}` and `{% endgeneration %}` mark for a training program what the model said.
/// They are a scope of their own and nothing else, so `with` stands in for them; as long as they
/// were, so that places stay what they are.
fn with_generation_blocks(source: String) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let sign = tag.starts_with(['-', '+']) as usize;
        let word_at = tag.len() - tag[sign..].trim_start().len();
        let word_len = tag[word_at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(tag.len() - word_at);
        let after = tag[word_at + word_len..]
            .trim_start()
            .trim_start_matches(['-', '+']);
        let stand_in = match &tag[word_at..word_at + word_len] {
            "generation" if after.starts_with("%}") => "with      ",
            "endgeneration" if after.starts_with("%}") => "endwith      ",
            word => word,
        };
        out.push_str(&tag[..word_at]);
        out.push_str(stand_in);
        rest = &tag[word_at + word_len..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_become_scopes_of_equal_length() {
        for (source, want) in [
            (
                "{% generation %}a{% endgeneration %}",
                "{% with       %}a{% endwith       %}",
            ),
            (
                "{%-generation-%}{%+ endgeneration -%}",
                "{%-with      -%}{%+ endwith       -%}",
            ),
            (
                "{% set generation = 1 %}{% generations %}",
                "{% set generation = 1 %}{% generations %}",
            ),
            ("{% generation x %}{%", "{% generation x %}{%"),
            ("ä{%", "ä{%"),
        ] {
            assert_eq!(with_generation_blocks(source.to_owned()), want);
        }
    }
}
