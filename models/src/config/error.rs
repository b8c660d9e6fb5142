//! Why a config was refused.

use std::{error::Error, fmt};

/// Why a config cannot be used. `field` is the path of the field as the source spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The document is not a JSON object.
    NotAnObject {
        /// What it is instead.
        got: String,
    },
    /// No supported architecture is named.
    UnknownArch {
        /// Where it should be named.
        field: String,
        /// What stands there.
        got: String,
    },
    /// A needed field is absent.
    Missing {
        /// The field.
        field: String,
        /// What should stand there.
        expected: String,
    },
    /// A field has a value of the wrong kind.
    Type {
        /// The field.
        field: String,
        /// The kind wanted.
        expected: String,
        /// The value, shortened.
        got: String,
    },
    /// A number leaves its range.
    Range {
        /// The field.
        field: String,
        /// The range.
        expected: String,
        /// The number.
        got: String,
    },
    /// A field changes the result in a way that is not implemented.
    Unsupported {
        /// The field.
        field: String,
        /// The values that are implemented.
        expected: String,
        /// The value, shortened.
        got: String,
        /// What to do.
        hint: &'static str,
    },
    /// Two fields contradict each other.
    Inconsistent {
        /// The field.
        field: String,
        /// What the others ask for.
        expected: String,
        /// The value, shortened.
        got: String,
    },
}

impl ConfigError {
    /// The path of the field that is at fault; empty if the document as a whole is.
    pub fn field(&self) -> &str {
        match self {
            Self::NotAnObject { .. } => "",
            Self::UnknownArch { field, .. }
            | Self::Missing { field, .. }
            | Self::Type { field, .. }
            | Self::Range { field, .. }
            | Self::Unsupported { field, .. }
            | Self::Inconsistent { field, .. } => field,
        }
    }

    pub(crate) fn range(
        field: impl Into<String>,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        Self::Range {
            field: field.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    pub(crate) fn inconsistent(
        field: impl Into<String>,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        Self::Inconsistent {
            field: field.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject { got } => write!(f, "config: expected a JSON object, got {got}"),
            Self::UnknownArch { field, got } => write!(
                f,
                "config field `{field}`: {got} is not supported; supported are LlamaForCausalLM, \
                 MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM"
            ),
            Self::Missing { field, expected } => {
                write!(f, "config field `{field}` is missing: expected {expected}")
            }
            Self::Type {
                field,
                expected,
                got,
            }
            | Self::Range {
                field,
                expected,
                got,
            }
            | Self::Inconsistent {
                field,
                expected,
                got,
            } => {
                write!(f, "config field `{field}`: expected {expected}, got {got}")
            }
            Self::Unsupported {
                field,
                expected,
                got,
                hint,
            } => {
                write!(
                    f,
                    "config field `{field}`: expected {expected}, got {got}; {hint}"
                )
            }
        }
    }
}

impl Error for ConfigError {}
