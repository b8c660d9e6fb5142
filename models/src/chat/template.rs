//! A template, compiled, and the bounds inside which it runs.

use std::{collections::BTreeMap, error::Error as _, fmt, sync::Arc, thread};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value,
    machinery::{self, CompiledTemplate, Instructions, TemplateConfig, Token},
    syntax::SyntaxConfig,
    value::{Serde, ValueKind},
};

use super::{
    error::{ChatError, Place},
    guard,
    message::{Message, RenderOptions, SpecialTokens},
    python,
};

const NAME: &str = "chat_template";
/// A template's source has at most so many bytes; the longest in use have some 30,000.
const MAX_SOURCE: usize = 1 << 17;
/// One expression has at most so many operators: the time to compile it grows with their square.
const MAX_OPERATORS: usize = 500;
/// Steps that any template may take, and so many more for each byte of what it is given. A template
/// takes a few hundred steps a message.
const FUEL: u64 = 1_000_000;
const FUEL_PER_BYTE: u64 = 8;
/// Bytes that any template may make, and so many more for each byte of what it is given.
const OUTPUT: usize = 1 << 20;
const OUTPUT_PER_BYTE: usize = 8;
/// Blocks and macros in each other go at most so deep.
const MAX_RECURSION: usize = 120;
/// The stack of a thread that renders: [`MAX_RECURSION`], and values as deep as they may be.
const STACK: usize = 16 << 20;
/// The engine compiles by recursion, a level for each operator, filter, `elif`, ...: so many bytes of
/// stack for each byte of the source.
const STACK_PER_BYTE: usize = 2 << 10;

/// A chat template, as Hugging Face's transformers renders it.
///
/// Jinja with `trim_blocks`, `lstrip_blocks`, loop controls, Python's methods of strings, lists and
/// dicts, `raise_exception(message)`, `strftime_now(format)`, `tojson` that escapes no HTML, and
/// `{% generation %}` blocks, which render as their content. There is one template, so nothing can be
/// included, imported or extended. One difference from jinja2 is known: there the `else` of a loop also
/// runs where every turn of the loop ended in `continue`.
///
/// A template comes from a model's author, not from the user: what it can do is bounded in steps,
/// memory, depth and output, and it runs on a thread whose stack fits these bounds.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    env: Environment<'static>,
    special: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    ///
    /// [`ChatError::Syntax`] with line and column; [`ChatError::SourceTooLong`];
    /// [`ChatError::Thread`].
    pub fn new(source: impl Into<String>, special: SpecialTokens) -> Result<Self, ChatError> {
        let source = source.into();
        if source.len() > MAX_SOURCE {
            return Err(ChatError::SourceTooLong {
                len: source.len(),
                max: MAX_SOURCE,
            });
        }
        let source = with_generation_blocks(source);
        let mut env = Environment::new();
        env.set_debug(true); // errors know their place
        env.set_recursion_limit(MAX_RECURSION);
        env.set_unknown_method_callback(python::method);
        env.add_filter("tojson", python::tojson);
        env.add_filter("trim", python::trim);
        env.add_function("raise_exception", raise_exception);
        env.add_test("iterable", is_iterable);
        env.remove_global("debug"); // it shows what a template is not given
        let template = Self {
            source,
            env,
            special,
        };
        template.on_thread(|| {
            template.check_operators()?;
            template.compile().map(drop)
        })?;
        Ok(template)
    }

    fn syntax(&self) -> Result<SyntaxConfig, ChatError> {
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        syntax.map_err(|err| chat_error(err, &self.source))
    }

    /// Looks for expressions that take too long to compile.
    fn check_operators(&self) -> Result<(), ChatError> {
        let mut operators = 0;
        for token in machinery::tokenize(&self.source, false, self.syntax()?) {
            // What is no token is told with its place when the template is compiled.
            let Ok((token, span)) = token else { break };
            match token {
                Token::VariableStart | Token::BlockStart => operators = 0,
                Token::Plus
                | Token::Minus
                | Token::Mul
                | Token::Div
                | Token::FloorDiv
                | Token::Pow
                | Token::Mod
                | Token::Tilde
                | Token::Eq
                | Token::Ne
                | Token::Gt
                | Token::Gte
                | Token::Lt
                | Token::Lte
                | Token::Ident("and" | "or" | "not" | "in" | "if") => operators += 1,
                _ => {}
            }
            if operators > MAX_OPERATORS {
                return Err(ChatError::Syntax {
                    place: Some(Place {
                        line: span.start_line.into(),
                        column: column(&self.source, span.start_offset as usize),
                    }),
                    message: format!("one expression has more than {MAX_OPERATORS} operators"),
                });
            }
        }
        Ok(())
    }

    /// The instructions of the template, each container that they make looked at.
    fn compile(&self) -> Result<Instructions<'_>, ChatError> {
        let config = TemplateConfig {
            syntax_config: self.syntax()?,
            default_auto_escape: Arc::new(|_| AutoEscape::None),
        };
        let compiled = CompiledTemplate::new(NAME, &self.source, &config)
            .map_err(|err| chat_error(err, &self.source))?;
        Ok(guard::guarded(&compiled.instructions, NAME, &self.source))
    }

    /// Runs `work` where the stack is large enough for it.
    fn on_thread<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, ChatError> + Send,
    ) -> Result<T, ChatError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("chat template".to_owned())
                .stack_size(STACK + STACK_PER_BYTE * self.source.len())
                .spawn_scoped(scope, work)
                .map_err(|cause| ChatError::Thread { cause })?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The text of a conversation. It contains special tokens: encode it with
    /// [`Specials::Parse`](crate::tokenizer::Specials::Parse), and put no
    /// [`bos`](crate::tokenizer::Tokenizer::bos) before it, for the template has done so.
    ///
    /// # Errors
    ///
    /// [`ChatError::Raised`] where the template refuses the conversation, [`ChatError::Render`]
    /// where it cannot be followed, [`ChatError::TooMuchWork`] and [`ChatError::TooLong`] where it
    /// does not end in time; all but the last say where in the template. [`ChatError::TooDeep`] where
    /// what it is given nests too deeply, [`ChatError::Thread`].
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, ChatError> {
        let contents = messages.iter().map(|message| &message.content);
        let extra = messages.iter().flat_map(|message| message.extra.values());
        let given = contents.chain(extra).chain(&options.tools);
        for value in given
            .chain(&options.documents)
            .chain(options.extra.values())
        {
            check_depth(value)?;
        }
        self.on_thread(|| self.render_here(messages, options))
    }

    fn render_here(
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

        let max = OUTPUT + OUTPUT_PER_BYTE * given_bytes;
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + FUEL_PER_BYTE * given_bytes as u64));
        env.add_filter(guard::FILTER, move |state: &State<'_, '_>, value: Value| {
            guard::look(state, value, max)
        });
        env.add_filter(
            guard::STORE_FILTER,
            move |state: &State<'_, '_>, value: Value| guard::look_to_store(state, value, max),
        );
        let now = options.now;
        env.add_function("strftime_now", move |format: String| {
            let failed = |detail: String| Error::new(ErrorKind::InvalidOperation, detail);
            let now =
                now.ok_or_else(|| failed("strftime_now: the time is not known".to_owned()))?;
            python::strftime(now, &format)
                .ok_or_else(|| failed(format!("strftime_now: `{format}` cannot be written")))
        });
        let instructions = self.compile()?;
        let mut text = String::new();
        let evaluated = machinery::eval(
            &env,
            &instructions,
            Value::from_pairs(variables),
            &BTreeMap::new(),
            &mut machinery::make_string_output(&mut text),
            AutoEscape::None,
        )
        .map(drop);
        evaluated.map_err(|err| chat_error(err, &self.source))?;
        if text.len() > max {
            return Err(ChatError::TooLong { max });
        }
        Ok(text)
    }
}

/// Whether a value nests no deeper than a template may walk it; without recursion, for it may nest
/// as deep as it likes.
fn check_depth(value: &serde_json::Value) -> Result<(), ChatError> {
    // A message and the list of them are two more.
    let max = guard::MAX_DEPTH - 2;
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        let items: Box<dyn Iterator<Item = &serde_json::Value>> = match value {
            serde_json::Value::Array(list) => Box::new(list.iter()),
            serde_json::Value::Object(map) => Box::new(map.values()),
            _ => continue,
        };
        if depth > max {
            return Err(ChatError::TooDeep { max });
        }
        open.extend(items.map(|item| (item, depth + 1)));
    }
    Ok(())
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

/// What a template says by `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Whether Python iterates over a value, which it does not over `None`.
fn is_iterable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Invalid => false,
        _ => value.try_iter().is_ok(),
    }
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let raised = Raised(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
}

/// The place of a byte in its line, in characters from 1.
fn column(source: &str, offset: usize) -> Option<usize> {
    let before = source.get(..offset)?;
    Some(before.chars().rev().take_while(|&c| c != '\n').count() + 1)
}

fn chat_error(err: Error, source: &str) -> ChatError {
    let column = err.range().and_then(|range| column(source, range.start));
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
