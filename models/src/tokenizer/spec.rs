//! What a `tokenizer.json` says apart from its vocabulary: plain data, the header of the fast form.

use serde::{Deserialize, Serialize};

/// Everything but the vocabulary and the merges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) alphabet: Alphabet,
    pub(super) normalizers: Vec<Normalizer>,
    pub(super) pre_tokenizers: Vec<PreTokenizer>,
    pub(super) decoder: Decoder,
    /// The token for what the vocabulary cannot spell.
    pub(super) unk: Option<u32>,
    /// Several unknown characters in a row become one token.
    pub(super) fuse_unk: bool,
    /// A character that has no token becomes its UTF-8 bytes, where each has a token `<0xXX>`.
    pub(super) byte_fallback: bool,
    /// A piece that is itself a token becomes that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    pub(super) added: Vec<AddedToken>,
    pub(super) special: Special,
}

/// What the merges start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Alphabet {
    /// The bytes of the text (`ByteLevel`).
    Bytes,
    /// Its characters (SentencePiece).
    Chars,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Prepend(String),
    Replace { pattern: Pattern, content: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Pattern {
    /// Exactly this, never empty.
    Text(String),
    Regex(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum PreTokenizer {
    Split {
        pattern: Pattern,
        behavior: Behavior,
        invert: bool,
    },
    Digits {
        individual: bool,
    },
    /// A space before each piece that does not start with one (`ByteLevel`'s `add_prefix_space`).
    PrefixSpace,
    Metaspace {
        replacement: char,
        prepend: Prepend,
        split: bool,
    },
}

/// What becomes of the matches of a splitting pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// Before which pieces `Metaspace` puts its replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Prepend {
    Always,
    First,
    Never,
}

/// How tokens of a [`Alphabet::Chars`] vocabulary become text; byte-level ones are their bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decoder {
    /// Replacements inside each token, in this order; the pattern is never empty.
    pub(super) replace: Vec<(String, String)>,
    /// Tokens `<0xXX>` are bytes.
    pub(super) byte_fallback: bool,
    /// At most so many of this character are dropped at the start of a text.
    pub(super) strip: Option<(char, u32)>,
}

/// A token that is found in the text before anything else happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

/// Tokens by their part in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Special {
    /// Put before a raw text.
    pub(super) before_text: Option<u32>,
    /// Whether training put `eos` after each text.
    pub(super) eos_after_text: bool,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) unk: Option<u32>,
}
