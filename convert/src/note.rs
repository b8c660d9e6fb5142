//! What a conversion did that its user should know, though it is no error.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A decision that a user should know about. Nothing is decided without an error or one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Note {
    /// The source stores the tied output matrix a second time, with equal values: stored once.
    TiedCopyDropped {
        /// The copy's name.
        tensor: String,
    },
    /// The config ties the output matrix to the embeddings, but the source has another one: both
    /// are stored.
    Untied {
        /// The output matrix's name.
        tensor: String,
    },
    /// Tensors that the config implies and that are not stored.
    NotStored {
        /// Their names.
        tensors: Vec<String>,
    },
    /// The source has no tokenizer and the conversion was told to go on: the file runs token ids
    /// only.
    NoTokenizer,
    /// The source has no chat template: the file completes text and does not chat.
    NoChatTemplate,
    /// The source's chat template cannot be used: the file completes text and does not chat.
    BrokenChatTemplate {
        /// Why, with line and column.
        why: String,
    },
    /// The tokenizer has tokens that the model has no embedding for.
    TokensWithoutEmbedding {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding matrix.
        vocab_size: usize,
    },
    /// A type was asked for a role that the model has no matrix of, such as the output of tied embeddings.
    OverrideUnused {
        /// What was asked for, as it was typed.
        asked: String,
    },
    /// Fewer threads than asked for, so that the memory stays bounded.
    FewerThreads {
        /// Threads asked for.
        asked: usize,
        /// Threads used.
        used: usize,
    },
    /// What the source has to say about its config.
    Source {
        /// In words.
        text: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TiedCopyDropped { tensor } => {
                write!(
                    f,
                    "tensor `{tensor}` equals the embeddings that it is tied to: stored once"
                )
            }
            Self::Untied { tensor } => write!(
                f,
                "the config ties the output to the embeddings, but tensor `{tensor}` differs from them: \
                 both are stored"
            ),
            Self::NotStored { tensors } => {
                write!(
                    f,
                    "{} tensors that the config implies are not stored ({}",
                    tensors.len(),
                    tensors.first().map_or("", |t| t)
                )?;
                f.write_str(if tensors.len() > 1 { ", ...)" } else { ")" })
            }
            Self::NoTokenizer => {
                f.write_str("the source has no tokenizer: the file runs token ids, no text")
            }
            Self::NoChatTemplate => f.write_str(
                "the source has no chat template: the file completes text and does not chat",
            ),
            Self::BrokenChatTemplate { why } => write!(
                f,
                "{why}: the file completes text (`run --raw`) and does not chat"
            ),
            Self::TokensWithoutEmbedding { tokens, vocab_size } => write!(
                f,
                "the tokenizer has {tokens} tokens, the model embeds {vocab_size}: text that needs the others \
                 is refused"
            ),
            Self::OverrideUnused { asked } => {
                write!(f, "{asked} changes nothing: the model has no such matrix")
            }
            Self::FewerThreads { asked, used } => {
                write!(
                    f,
                    "{used} threads instead of {asked}, so that the memory stays bounded"
                )
            }
            Self::Source { text } => f.write_str(text),
        }
    }
}
