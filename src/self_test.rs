//! The self-test of a file: made at conversion, checked on any machine.

use std::{error::Error, fmt, sync::Arc};

use chaski_models::{
    TokenId,
    chat::{ChatError, ChatTemplate, Message, Moment, RenderOptions},
    metadata::MetadataError,
    self_test::{Fingerprint, GoldenChat, GoldenText, SELF_TEST, SELF_TEST_VERSION, SelfTest},
    tokenizer::{Specials, Tokenizer, TokenizerError},
};
use chaski_quant::container::{AtomicFile, ContainerError};
use sha2::{Digest, Sha256};

use crate::{
    model::{Model, ModelError, ModelOptions, TokenizerLoadError},
    session::{Session, SessionError, SessionOptions},
};

/// Name and version of this program, for the record.
const MADE_BY: &str = concat!("chaski ", env!("CARGO_PKG_VERSION"));

/// Texts that tokenizers disagree about where they are not the same: contractions, numbers, runs of
/// spaces and lines, code, accents in both forms, other scripts, emoji that are several characters,
/// and what looks like a special token. The first one is also the prompt of the fingerprint.
const TEXTS: [&str; 10] = [
    "The runner carried the message over the pass before sunrise, and nobody asked for 1,024 reasons.",
    "It's what they'd've said: we'll see, I'm sure, won't we? YOU'RE LATE",
    "3.14159 1234567890 0x1F 1e-9 12:30 50%",
    "  two spaces\tand a tab,   three   in a row \n\n\n  lines \r\n end ",
    "fn main() {\n    let x: Vec<u8> = vec![0; 16];\n\tprintln!(\"{:?}\", &x[..]); // done\n}",
    "na\u{ef}ve caf\u{e9} nai\u{308}ve cafe\u{301} \u{130}stanbul Stra\u{df}e",
    "\u{4eca}\u{65e5}\u{306f}\u{826f}\u{3044}\u{5929}\u{6c17}\u{3002} \u{d55c}\u{ad6d}\u{c5b4} \u{440}\u{443}\u{441}\u{441}\u{43a}\u{438}\u{439}",
    "\u{645}\u{631}\u{62d}\u{628}\u{627} \u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
    "\u{1f469}\u{200d}\u{1f680} \u{1f1f5}\u{1f1ea} \u{1f44d}\u{1f3fd} \u{2192} \u{2211} \u{a0}\u{feff}\u{200b}",
    "<|im_end|> <|eot_id|> </s> [INST] <unk>",
];

/// Tokens of the prompt of a file without a tokenizer, and the most of any.
const PROMPT_LEN: usize = 24;
/// The longest prompt that is read: a file must not decide how much memory a check takes.
const MAX_PROMPT: usize = 4096;
/// What `strftime_now` says in the conversations: 2025-01-15 12:00 UTC.
const NOW: i64 = 1_736_942_400;

/// Why a self-test could not be made, or what it found.
#[derive(Debug)]
#[non_exhaustive]
pub enum SelfTestError {
    /// The file could not be opened.
    Open(ModelError),
    /// Its tokenizer cannot be used.
    Tokenizer(TokenizerLoadError),
    /// A text could not be cut into tokens.
    Encode(TokenizerError),
    /// Its chat template cannot be used.
    Template(ChatError),
    /// The model could not be run.
    Run(SessionError),
    /// The file has none.
    Missing,
    /// The file's self-test is not of the form that this version reads.
    Form(serde_json::Error),
    /// It is of another version.
    Version {
        /// Its version.
        got: u32,
    },
    /// Its prompt is too long to be one of ours.
    Prompt {
        /// Its tokens.
        len: usize,
    },
    /// A text has other tokens.
    Tokens {
        /// The text.
        text: String,
        /// The first token that differs.
        at: usize,
    },
    /// A conversation becomes another text.
    Rendered {
        /// Its number, from 1.
        chat: usize,
    },
    /// The logits are others.
    Logits {
        /// The first position at which another token is the likeliest, if there is one.
        at: Option<usize>,
    },
    /// The metadata could not be written.
    Metadata(MetadataError),
    /// The file could not be written.
    Write(ContainerError),
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(_) => f.write_str("the file could not be opened"),
            Self::Tokenizer(_) => f.write_str("the tokenizer cannot be used"),
            Self::Encode(_) => f.write_str("a text of the self-test has no tokens"),
            Self::Template(_) => f.write_str("the chat template cannot be used"),
            Self::Run(_) => f.write_str("the prompt of the self-test cannot be read"),
            Self::Missing => f.write_str(
                "the file has no self-test: it was made by an older version, convert it again",
            ),
            Self::Form(_) => f.write_str("the file's self-test is not of the expected form"),
            Self::Version { got } => write!(
                f,
                "the file's self-test is of version {got}, this program reads {SELF_TEST_VERSION}"
            ),
            Self::Prompt { len } => write!(
                f,
                "the prompt of the file's self-test has {len} tokens, at most {MAX_PROMPT} are read"
            ),
            Self::Tokens { text, at } => write!(
                f,
                "the text \"{}\" has other tokens than when the file was made, from token {at} on",
                text.escape_debug()
            ),
            Self::Rendered { chat } => write!(
                f,
                "the chat template makes another text of conversation {chat} than when the file was \
                 made"
            ),
            Self::Logits { at: Some(at) } => write!(
                f,
                "the logits are not those of when the file was made: at position {at} another token is \
                 the likeliest"
            ),
            Self::Logits { at: None } => f.write_str(
                "the logits are not those of when the file was made, though the likeliest tokens are",
            ),
            Self::Metadata(_) | Self::Write(_) => f.write_str("the self-test cannot be written"),
        }
    }
}

impl Error for SelfTestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open(e) => Some(e),
            Self::Tokenizer(e) => Some(e),
            Self::Encode(e) => Some(e),
            Self::Template(e) => Some(e),
            Self::Run(e) => Some(e),
            Self::Form(e) => Some(e),
            Self::Metadata(e) => Some(e),
            Self::Write(e) => Some(e),
            _ => None,
        }
    }
}

/// What was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Texts that have the same tokens.
    pub texts: usize,
    /// Conversations that become the same text.
    pub chats: usize,
    /// Positions whose logits are the same bits.
    pub positions: usize,
}

/// Makes the self-test of a model. It is the same on every machine.
///
/// # Errors
///
/// The tokenizer or the chat template cannot be used, or the model cannot be run. Logits that are
/// not finite are no error.
pub fn make(model: &Arc<Model>) -> Result<SelfTest, SelfTestError> {
    let tokenizer = tokenizer(model)?;
    let mut texts = Vec::new();
    if let Some(tokenizer) = &tokenizer {
        for text in TEXTS {
            texts.push(GoldenText {
                text: text.to_owned(),
                ids: encode(tokenizer, text)?,
            });
        }
    }
    let mut chats = Vec::new();
    // Such a template is a note of the conversion; it cannot be tested.
    if let Ok(Some(template)) = template(model, tokenizer.as_ref()) {
        for messages in conversations() {
            for add_generation_prompt in [true, false] {
                let mut chat = GoldenChat {
                    messages: messages.clone(),
                    add_generation_prompt,
                    unix_seconds: NOW,
                    rendered: None,
                };
                chat.rendered = render(&template, &chat);
                chats.push(chat);
            }
        }
    }
    let vocab_size = model.config().vocab_size;
    let prompt: Vec<TokenId> = match texts.first() {
        Some(first) => first.ids.iter().copied().take(PROMPT_LEN).collect(),
        None => (1..=PROMPT_LEN)
            .map(|i| TokenId((i * i * 7919 % vocab_size) as u32))
            .collect(),
    };
    // Tokens without an embedding cannot be read.
    let prompt: Vec<TokenId> = prompt
        .into_iter()
        .filter(|id| id.index() < vocab_size)
        .collect();
    let logits = match fingerprint(model, &prompt) {
        Ok(logits) => Some(logits),
        Err(SessionError::NotFinite { .. }) => None,
        Err(e) => return Err(SelfTestError::Run(e)),
    };
    Ok(SelfTest {
        version: SELF_TEST_VERSION,
        made_by: MADE_BY.to_owned(),
        texts,
        chats,
        logits,
    })
}

/// Makes the self-test of a file that is about to get its name, and writes it into the file's
/// metadata.
///
/// # Errors
///
/// As [`make`], and if the file cannot be opened or written.
pub fn write(file: &AtomicFile) -> Result<SelfTest, SelfTestError> {
    let container = file.open().map_err(SelfTestError::Write)?;
    let model = Model::from_container(container, file.target(), &ModelOptions::default());
    let model = model.map_err(SelfTestError::Open)?;
    let mut metadata = model.metadata().clone();
    let made = make(&Arc::new(model))?;
    let value = serde_json::to_value(&made).map_err(SelfTestError::Form)?;
    metadata.extensions.insert(SELF_TEST.to_owned(), value);
    let json = metadata.to_json().map_err(SelfTestError::Metadata)?;
    file.rewrite_metadata(&json).map_err(SelfTestError::Write)?;
    Ok(made)
}

/// Checks a model by the self-test in its file.
///
/// # Errors
///
/// The file has none, or this machine finds something else than what it says.
pub fn check(model: &Arc<Model>) -> Result<Checked, SelfTestError> {
    let stored = model.metadata().extensions.get(SELF_TEST);
    let stored = stored.ok_or(SelfTestError::Missing)?;
    let version = stored.get("version").and_then(serde_json::Value::as_u64);
    if let Some(got) = version.filter(|&v| v != u64::from(SELF_TEST_VERSION)) {
        let got = u32::try_from(got).unwrap_or(u32::MAX);
        return Err(SelfTestError::Version { got });
    }
    let want: SelfTest = serde_json::from_value(stored.clone()).map_err(SelfTestError::Form)?;
    let tokenizer = tokenizer(model)?;
    for golden in &want.texts {
        let ids = match &tokenizer {
            Some(tokenizer) => encode(tokenizer, &golden.text)?,
            None => Vec::new(),
        };
        if ids != golden.ids {
            let pairs = ids.iter().zip(&golden.ids);
            return Err(SelfTestError::Tokens {
                text: golden.text.clone(),
                at: pairs.take_while(|(a, b)| a == b).count(),
            });
        }
    }
    if !want.chats.is_empty() {
        let template = template(model, tokenizer.as_ref()).map_err(SelfTestError::Template)?;
        for (i, golden) in want.chats.iter().enumerate() {
            let rendered = template.as_ref().and_then(|t| render(t, golden));
            if rendered != golden.rendered {
                return Err(SelfTestError::Rendered { chat: i + 1 });
            }
        }
    }
    let mut positions = 0;
    if let Some(logits) = &want.logits {
        let len = logits.prompt.len();
        if len > MAX_PROMPT {
            return Err(SelfTestError::Prompt { len });
        }
        let found = fingerprint(model, &logits.prompt).map_err(SelfTestError::Run)?;
        if found != *logits {
            let mut pairs = found.top.iter().zip(&logits.top);
            return Err(SelfTestError::Logits {
                at: pairs.position(|(a, b)| a != b),
            });
        }
        positions = logits.prompt.len();
    }
    Ok(Checked {
        texts: want.texts.len(),
        chats: want.chats.len(),
        positions,
    })
}

fn tokenizer(model: &Model) -> Result<Option<Tokenizer>, SelfTestError> {
    match model.tokenizer() {
        Ok(loaded) => Ok(Some(loaded.tokenizer)),
        Err(TokenizerLoadError::Missing) => Ok(None),
        Err(e) => Err(SelfTestError::Tokenizer(e)),
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<TokenId>, SelfTestError> {
    tokenizer
        .encode(text, Specials::AsText)
        .map_err(SelfTestError::Encode)
}

fn template(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<ChatTemplate>, ChatError> {
    match tokenizer {
        Some(tokenizer) => model.chat_template(tokenizer),
        None => Ok(None),
    }
}

fn conversations() -> [Vec<[String; 2]>; 3] {
    let says = |role: &str, text: &str| [role.to_owned(), text.to_owned()];
    let question = says("user", "Which way to Cusco?\n  (on foot)");
    [
        vec![question.clone()],
        vec![says("system", "Answer in one word."), question.clone()],
        vec![
            question,
            says("assistant", "South."),
            says("user", "How far <|is|> it?"),
        ],
    ]
}

fn render(template: &ChatTemplate, chat: &GoldenChat) -> Option<String> {
    let messages: Vec<Message> = chat
        .messages
        .iter()
        .map(|[role, text]| Message::new(role.as_str(), text.as_str()))
        .collect();
    let options = RenderOptions {
        add_generation_prompt: chat.add_generation_prompt,
        now: Some(Moment {
            unix_seconds: chat.unix_seconds,
            utc_offset_seconds: 0,
        }),
        ..RenderOptions::default()
    };
    template.render(&messages, &options).ok()
}

fn fingerprint(model: &Arc<Model>, prompt: &[TokenId]) -> Result<Fingerprint, SessionError> {
    let options = SessionOptions {
        context_len: Some(prompt.len().max(1)),
        ubatch: prompt.len().clamp(1, 64),
        logit_rows: 64,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, &options)?;
    let (mut hash, mut top) = (Sha256::new(), Vec::new());
    session.extend_with(prompt, 0, &mut |_, logits| {
        let mut best = 0;
        for (i, &logit) in logits.iter().enumerate() {
            hash.update(logit.to_le_bytes());
            if logit > logits[best] {
                best = i;
            }
        }
        top.push(TokenId(best as u32));
    })?;
    Ok(Fingerprint {
        prompt: prompt.to_vec(),
        top,
        sha256: hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
    })
}
