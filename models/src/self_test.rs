//! What a file expects of whoever runs it.
//!
//! Made when a model is converted and kept in the file's metadata: tokens of some texts, the texts of
//! some conversations, and a fingerprint of the logits on a fixed prompt. Since every machine
//! computes the same bits, any machine can check them.

use serde::{Deserialize, Serialize};

use crate::TokenId;

/// The metadata's extension that holds a [`SelfTest`].
pub const SELF_TEST: &str = "self_test";
/// The version of [`SelfTest`] that this code writes and reads.
pub const SELF_TEST_VERSION: u32 = 1;

/// What a file expects of whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// [`SELF_TEST_VERSION`].
    pub version: u32,
    /// Name and version of the program that made it.
    pub made_by: String,
    /// Texts and their tokens.
    pub texts: Vec<GoldenText>,
    /// Conversations, and what the chat template makes of them.
    pub chats: Vec<GoldenChat>,
    /// The logits of a prompt; `None`: they are not finite, the weights are of no use.
    pub logits: Option<Fingerprint>,
}

/// A text and its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenText {
    /// The text, taken as text even where it spells a special token.
    pub text: String,
    /// Its tokens, nothing put before or after.
    pub ids: Vec<TokenId>,
}

/// A conversation and what the chat template makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenChat {
    /// `[role, text]` of each message.
    pub messages: Vec<[String; 2]>,
    /// Whether the text ends with the start of an answer.
    pub add_generation_prompt: bool,
    /// What `strftime_now` says, in seconds since 1970, UTC.
    pub unix_seconds: i64,
    /// The text; `None`: the template refuses the conversation.
    pub rendered: Option<String>,
}

/// The logits of a prompt, read from an empty context with a KV cache of f16.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The prompt.
    pub prompt: Vec<TokenId>,
    /// The likeliest token after each token of the prompt; of equal logits the first.
    pub top: Vec<TokenId>,
    /// SHA-256 of the logits after each token of the prompt, as little-endian f32 in the order of the
    /// vocabulary: 64 hexadecimal digits.
    pub sha256: String,
}
