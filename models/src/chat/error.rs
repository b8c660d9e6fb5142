//! What can be wrong with a chat template or with what it is given.

use std::{error::Error, fmt, io};

/// A place in a template's source, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in the line, where it is known.
    pub column: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        self.column
            .map_or(Ok(()), |column| write!(f, ", column {column}"))
    }
}

/// Why a conversation could not be rendered.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is not one.
    Syntax {
        /// Where.
        place: Option<Place>,
        /// What is wrong there.
        message: String,
    },
    /// The template itself refused the conversation, by `raise_exception`.
    Raised {
        /// Where it did.
        place: Option<Place>,
        /// What it says.
        message: String,
    },
    /// The template cannot be followed: a variable, a filter or a method is not there, a value is
    /// not of its kind.
    Render {
        /// Where.
        place: Option<Place>,
        /// What is wrong there.
        message: String,
    },
    /// The template takes more steps, or makes more data, than a conversation of this size can
    /// need.
    TooMuchWork {
        /// Where it was stopped.
        place: Option<Place>,
    },
    /// The rendered text is longer than a conversation of this size can need.
    TooLong {
        /// The most that it may have, in bytes.
        max: usize,
    },
    /// The template's source is longer than any that is known.
    SourceTooLong {
        /// Its bytes.
        len: usize,
        /// The most that it may have.
        max: usize,
    },
    /// A message, a tool or another variable is nested too deeply.
    TooDeep {
        /// The deepest that it may be.
        max: usize,
    },
    /// The thread that runs the template could not be started.
    Thread {
        /// The cause.
        cause: io::Error,
    },
    /// `chat_template` in `tokenizer_config.json` is neither a text nor a list of named texts.
    NotATemplate {
        /// What should be there.
        expected: &'static str,
    },
    /// Of several named templates none is for this use.
    NoDefault {
        /// Their names.
        names: Vec<String>,
    },
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = |what: &str, place: &Option<Place>| match place {
            Some(place) => write!(f, "the chat template {what} at {place}"),
            None => write!(f, "the chat template {what}"),
        };
        match self {
            Self::Syntax { place, message } => {
                at("does not compile", place)?;
                write!(f, ": {message}")
            }
            Self::Raised { place, message } => {
                at("refuses the conversation", place)?;
                write!(f, ": {message}")
            }
            Self::Render { place, message } => {
                at("fails", place)?;
                write!(f, ": {message}")
            }
            Self::TooMuchWork { place } => at("takes too many steps", place),
            Self::TooLong { max } => {
                write!(
                    f,
                    "the chat template makes more than {max} bytes of this conversation"
                )
            }
            Self::SourceTooLong { len, max } => write!(
                f,
                "the chat template has {len} bytes, more than {max} are not accepted"
            ),
            Self::TooDeep { max } => write!(
                f,
                "a message or tool for the chat template is nested more than {max} deep"
            ),
            Self::Thread { .. } => {
                f.write_str("the thread that runs the chat template could not be started")
            }
            Self::NotATemplate { expected } => {
                write!(
                    f,
                    "`chat_template` in tokenizer_config.json should be {expected}"
                )
            }
            Self::NoDefault { names } => {
                let names = names.join("`, `");
                write!(
                    f,
                    "none of the chat templates `{names}` is called `default`"
                )
            }
        }
    }
}

impl Error for ChatError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Thread { cause } => Some(cause),
            _ => None,
        }
    }
}
