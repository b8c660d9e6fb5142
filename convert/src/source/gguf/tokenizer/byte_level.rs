//! `gpt2`: byte pair encoding over the bytes of a text.

use serde_json::{Value as Json, json};

use super::{Merges, Parts, vocabulary::Vocabulary};
use crate::source::gguf::{error::GgufError, metadata::Metadata};

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// How a text is cut into the pieces that are merged each on their own.
#[derive(Clone, Copy, Debug)]
struct Pre {
    /// The texts are brought to Unicode's form C first.
    nfc: bool,
    cuts: &'static [Cut],
    /// A piece that is a token is not merged.
    ignore_merges: bool,
    /// BOS comes before a text where the file does not say.
    add_bos: bool,
}

/// One step of cutting.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Matches are pieces, and so is what lies between them.
    Regex(&'static str),
    /// Every digit is a piece.
    Digits,
    /// GPT-2's words.
    Words,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// llama.cpp's own, which no model was trained with but files name.
const DEFAULT: [Cut; 4] = [
    Cut::Regex(r"[\p{P}\$\+<=>\^~\|]+"),
    Cut::Words,
    Cut::Regex(r"\p{N}+"),
    Cut::Regex("[0-9][0-9][0-9]"),
];

/// The names that files have for these.
static PRES: [(&[&str], Pre); 7] = [
    (
        &["llama-bpe", "llama3", "llama-v3"],
        Pre {
            nfc: false,
            cuts: &[Cut::Regex(LLAMA3)],
            ignore_merges: true,
            add_bos: true,
        },
    ),
    (
        &["smollm", "starcoder", "refact"],
        Pre {
            nfc: false,
            cuts: &[Cut::Digits, Cut::Words],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["command-r"],
        Pre {
            nfc: true,
            cuts: &[Cut::Digits, Cut::Words],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["qwen2", "deepseek-r1-qwen"],
        Pre {
            nfc: true,
            cuts: &[Cut::Regex(QWEN2)],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["tekken"],
        Pre {
            nfc: false,
            cuts: &[Cut::Regex(TEKKEN)],
            ignore_merges: true,
            add_bos: true,
        },
    ),
    (
        &["gpt-2", "phi-2"],
        Pre {
            nfc: false,
            cuts: &[Cut::Words],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["default"],
        Pre {
            nfc: false,
            cuts: &DEFAULT,
            ignore_merges: false,
            add_bos: false,
        },
    ),
];

/// Reads the parts of a byte-level tokenizer.
pub(super) fn read<'a>(
    metadata: &'a Metadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<Parts<'a>, GgufError> {
    let pre = pre(metadata)?;
    Ok(Parts {
        normalizer: if pre.nfc {
            json!({"type": "NFC"})
        } else {
            Json::Null
        },
        pre_tokenizer: pre_tokenizer(pre.cuts),
        post_processor: Some(byte_level(true, false)),
        decoder: byte_level(true, true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
        }),
        merges: merges(metadata, vocabulary)?,
        add_bos: pre.add_bos,
    })
}

fn pre(metadata: &Metadata) -> Result<Pre, GgufError> {
    let Some(name) = metadata.text(PRE)? else {
        return Err(GgufError::MissingKey {
            key: PRE.to_owned(),
            expected: "the name of a pre-tokenizer; without it the file would be cut into other tokens than the \
                       model was trained with: convert the original model again",
        });
    };
    let known = PRES.iter().find(|(names, _)| names.contains(&name));
    known.map(|(_, pre)| *pre).ok_or_else(|| {
        let names: Vec<_> = PRES.iter().flat_map(|(names, _)| *names).copied().collect();
        GgufError::Unsupported {
            key: PRE.to_owned(),
            expected: format!("one of {}", names.join(", ")),
            got: name.to_owned(),
            hint: "other pre-tokenizers are not implemented",
        }
    })
}

/// The step that turns bytes into the characters of the vocabulary; in the pre-tokenizer it may cut words, too.
fn byte_level(add_prefix_space: bool, trim_offsets: bool) -> Json {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": true,
    })
}

fn pre_tokenizer(cuts: &[Cut]) -> Json {
    // GPT-2's words as an expression of their own: `ByteLevel` can only cut them last.
    const WORDS: &str =
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let split = |regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let words_last = matches!(cuts.last(), Some(Cut::Words));
    let before = &cuts[..cuts.len() - usize::from(words_last)];
    let mut steps: Vec<_> = before
        .iter()
        .map(|cut| match cut {
            Cut::Regex(regex) => split(*regex),
            Cut::Digits => json!({"type": "Digits", "individual_digits": true}),
            Cut::Words => split(WORDS),
        })
        .collect();
    steps.push(json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": words_last,
    }));
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The merges as they are, each checked to join two tokens to a third.
fn merges<'a>(
    metadata: &'a Metadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<Merges<'a>, GgufError> {
    let merges = metadata.texts(MERGES)?.ok_or(GgufError::MissingKey {
        key: MERGES.to_owned(),
        expected: "an array of texts",
    })?;
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let error = |problem| GgufError::Merge {
            index,
            merge: merge.to_owned(),
            problem,
        };
        let parts = merge
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        let Some((left, right)) = parts else {
            return Err(error("is not two tokens with a space between them"));
        };
        joined.clear();
        joined.extend([left, right]);
        if ![left, right, &joined]
            .into_iter()
            .all(|t| vocabulary.id(t).is_some())
        {
            return Err(error(
                "joins tokens, or makes one, that the vocabulary does not have",
            ));
        }
    }
    Ok(Merges::Texts(merges.iter().collect()))
}
