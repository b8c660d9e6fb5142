//! A chat's commands and its saved form.

use std::{io, path::Path};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::text;

/// What a line typed in the chat asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// An empty line: ask again.
    Nothing,
    /// A message to the model.
    Message(String),
    /// Leave.
    Exit,
    /// Forget the conversation.
    Clear,
    /// Answer the last message again.
    Regen,
    /// Write the conversation to a file.
    Save {
        /// Its name.
        file: String,
        /// Whether one that is there may be replaced.
        replace: bool,
    },
    /// Read a conversation from a file.
    Load(String),
    /// Send a file's text as a message.
    Read(String),
    /// Print figures.
    Stats,
    /// List the commands.
    Help,
    /// A command that does not exist or lacks its argument, and what to do.
    Wrong(String),
}

/// The commands, as `/help` lists them.
pub(crate) const HELP: &str = "\
/exit         leave (also Ctrl-D)
/clear        forget the conversation
/regen        answer the last message again
/save FILE    write the conversation to FILE (JSON); /save! FILE replaces one that is there
/load FILE    continue a saved conversation
/read FILE    send the text of FILE
/stats        tokens, speed and memory so far
/help         this list
A line that ends with \\ continues on the next one. A message that begins with / is sent as //...
Ctrl-C stops the answer; at the prompt it leaves.";

impl Line {
    /// Reads one line; `//text` is the message `/text`.
    pub(crate) fn parse(line: &str) -> Self {
        let text = line.trim();
        if text.is_empty() {
            return Self::Nothing;
        }
        let Some(command) = text.strip_prefix('/') else {
            return Self::Message(line.trim_end().to_owned());
        };
        if command.starts_with('/') {
            return Self::Message(command.to_owned());
        }
        let (name, argument) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let argument = argument.trim().to_owned();
        let with_file = |f: &dyn Fn(String) -> Self| {
            if argument.is_empty() {
                Self::Wrong(format!("/{name} needs a file name: /{name} FILE"))
            } else {
                f(argument.clone())
            }
        };
        match name {
            "save" | "save!" => {
                let replace = name == "save!";
                return with_file(&|file| Self::Save { file, replace });
            }
            "load" => return with_file(&Self::Load),
            "read" => return with_file(&Self::Read),
            _ => {}
        }
        let plain = match name {
            "exit" | "quit" | "bye" => Self::Exit,
            "clear" => Self::Clear,
            "regen" => Self::Regen,
            "stats" => Self::Stats,
            "help" | "?" => Self::Help,
            _ => {
                return Self::Wrong(format!(
                    "there is no /{name}; /help lists the commands, //{name} sends it as text"
                ));
            }
        };
        if argument.is_empty() {
            plain
        } else {
            Self::Wrong(format!("/{name} takes nothing after it"))
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub(crate) role: String,
    /// Its text.
    pub(crate) content: String,
}

/// A conversation: messages, oldest first; perhaps a system message before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conversation {
    /// Version of the saved form.
    version: u32,
    /// The messages.
    pub(crate) turns: Vec<Turn>,
}

const VERSION: u32 = 1;
/// A saved conversation is text that somebody typed: more than this is another kind of file.
const MAX_SAVED_BYTES: u64 = 64 << 20;

impl Conversation {
    /// No messages but the system's, if any.
    pub(crate) fn new(system: Option<&str>) -> Self {
        let mut c = Self {
            version: VERSION,
            turns: Vec::new(),
        };
        if let Some(text) = system {
            c.push("system", text);
        }
        c
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, role: &str, content: &str) {
        self.turns.push(Turn {
            role: role.to_owned(),
            content: content.to_owned(),
        });
    }

    /// Drops all but the system message.
    pub(crate) fn clear(&mut self) {
        self.turns.retain(|t| t.role == "system");
    }

    /// Drops the last answer, so that the user's message is the last one; `false` if there is none.
    pub(crate) fn drop_answer(&mut self) -> bool {
        if self.turns.last().is_some_and(|t| t.role == "assistant") {
            self.turns.pop();
        }
        self.turns.last().is_some_and(|t| t.role == "user")
    }

    /// Writes JSON to `path`, whole or not at all; over a file that is there only to `replace` it.
    pub(crate) fn save(&self, path: &Path, replace: bool) -> anyhow::Result<()> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            if replace {
                file.persist(path).map_err(|e| e.error)?;
            } else {
                file.persist_noclobber(path).map_err(|e| e.error)?;
            }
            Ok(())
        };
        let written = write();
        if let Err(e) = &written
            && e.kind() == io::ErrorKind::AlreadyExists
        {
            bail!("{0} exists already: /save! {0} replaces it", path.display());
        }
        written.with_context(|| format!("could not save the conversation to {}", path.display()))
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let named = || format!("could not load the conversation {}", path.display());
        let text = text::read_file(path, MAX_SAVED_BYTES).with_context(named)?;
        let c: Self = serde_json::from_str(&text).with_context(named)?;
        if c.version != VERSION {
            bail!(
                "{}: version {}, this chaski reads {VERSION}",
                path.display(),
                c.version
            );
        }
        for (i, turn) in c.turns.iter().enumerate() {
            if !["system", "user", "assistant"].contains(&turn.role.as_str()) {
                bail!(
                    "{}: message {i} has the role `{}`",
                    path.display(),
                    turn.role.escape_debug()
                );
            }
        }
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        for (line, want) in [
            ("", Line::Nothing),
            ("  \t", Line::Nothing),
            ("hello /exit", Line::Message("hello /exit".into())),
            ("  indented ", Line::Message("  indented".into())),
            ("//etc/passwd", Line::Message("/etc/passwd".into())),
            (" /exit ", Line::Exit),
            (
                "/save a b.json",
                Line::Save {
                    file: "a b.json".into(),
                    replace: false,
                },
            ),
            (
                "/save! a",
                Line::Save {
                    file: "a".into(),
                    replace: true,
                },
            ),
            ("/load\tx", Line::Load("x".into())),
            ("/stats", Line::Stats),
        ] {
            assert_eq!(Line::parse(line), want, "{line:?}");
        }
        for line in ["/save", "/load  ", "/clear all", "/nonsense", "/"] {
            assert!(matches!(Line::parse(line), Line::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn a_conversation_survives_saving_and_refuses_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.json");
        let mut c = Conversation::new(Some("be brief"));
        c.push("user", "hi \u{1f600}");
        c.push("assistant", "hello");
        c.save(&path, false).unwrap();
        assert_eq!(Conversation::load(&path).unwrap(), c);
        let shorter = Conversation::new(Some("be brief"));
        let err = shorter.save(&path, false).unwrap_err().to_string();
        assert!(err.contains("exists already: /save! "), "{err}");
        assert_eq!(Conversation::load(&path).unwrap(), c);
        shorter.save(&path, true).unwrap();
        assert_eq!(Conversation::load(&path).unwrap(), shorter);
        for text in [
            "",
            "[]",
            r#"{"version":9,"turns":[]}"#,
            r#"{"version":1,"turns":[{"role":"root","content":""}]}"#,
            r#"{"version":1,"turns":[],"x":1}"#,
        ] {
            fs::write(&path, text).unwrap();
            let err = Conversation::load(&path).unwrap_err();
            assert!(format!("{err:#}").contains("chat.json"), "{text}: {err:#}");
        }
        assert!(c.drop_answer());
        assert_eq!(c.turns.len(), 2);
        c.clear();
        assert!(!c.drop_answer());
        assert_eq!(c.turns.len(), 1);
    }
}
