//! `llama`: SentencePiece's byte pair encoding over the characters of a text.

use std::cmp::Reverse;

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::{
    Merges, Parts,
    vocabulary::{TokenKind, Vocabulary},
};
use crate::source::gguf::{
    error::GgufError,
    generation::{TOKENS, UNK, token_id},
    metadata::{Metadata, Value},
};

const SCORES: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// What stands for a space in a token.
const SPACE: &str = "\u{2581}";
/// The longest token that is taken apart; SentencePiece's own limit is 16 characters where nothing else is said.
const MAX_TOKEN_BYTES: usize = 256;

/// Reads the parts of a SentencePiece tokenizer.
pub(super) fn read<'a>(
    metadata: &Metadata,
    vocabulary: &'a Vocabulary<'a>,
) -> Result<Parts<'a>, GgufError> {
    check_normalizer(metadata)?;
    let byte_fallback = byte_fallback(vocabulary)?;
    let unk = token_id(metadata, UNK, vocabulary.len())?;
    let unk = unk
        .or_else(|| unknown(vocabulary))
        .map(|id| vocabulary.text(id));
    let prefix = metadata.bool(ADD_SPACE_PREFIX)?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let normalizer = if prefix {
        json!({"type": "Sequence", "normalizers": [prepend, replace]})
    } else {
        replace
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Parts {
        normalizer,
        pre_tokenizer: Json::Null,
        post_processor: None,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unk,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": byte_fallback,
            "ignore_merges": false,
        }),
        merges: merges(vocabulary, &scores(metadata, vocabulary)?)?,
        add_bos: true,
    })
}

/// Refuses rules for normalising a text that Llama's vocabularies do not have.
fn check_normalizer(metadata: &Metadata) -> Result<(), GgufError> {
    let hint = "normalising texts by rules of the vocabulary is not implemented";
    let unsupported = |key: &str, expected: &str, got: &Value| GgufError::Unsupported {
        key: key.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
        hint,
    };
    if let Some(map) = metadata.get(CHARSMAP)
        && !matches!(map, Value::Array(array) if array.len() == 0)
    {
        return Err(unsupported(CHARSMAP, "an empty array", map));
    }
    if metadata.bool(REMOVE_EXTRA_WHITESPACES)? == Some(true) {
        return Err(unsupported(
            REMOVE_EXTRA_WHITESPACES,
            "false",
            &Value::Bool(true),
        ));
    }
    Ok(())
}

/// Whether characters without a token become bytes: the vocabulary has a token for each byte, or for none.
fn byte_fallback(vocabulary: &Vocabulary<'_>) -> Result<bool, GgufError> {
    let mut n = 0;
    for (id, token, _) in vocabulary.mergeable().filter(|t| t.2 == TokenKind::Byte) {
        let error = |problem| GgufError::Token {
            key: TOKENS,
            id: id as usize,
            token: token.to_owned(),
            problem,
        };
        let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
        let is_byte = hex.is_some_and(|hex| {
            hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
        });
        if !is_byte {
            return Err(error(
                "is marked as a byte and is not spelled as one, <0x00> to <0xFF>",
            ));
        }
        n += 1;
    }
    // No token is there twice, so 256 of them are all bytes.
    match n {
        0 => Ok(false),
        256 => Ok(true),
        n => {
            let got = format_args!("an array with {n} of them");
            Err(GgufError::value(
                TOKENS,
                "tokens for all 256 bytes, or for none",
                got,
            ))
        }
    }
}

fn unknown(vocabulary: &Vocabulary<'_>) -> Option<u32> {
    (0..vocabulary.len() as u32).find(|&id| vocabulary.kind(id) == TokenKind::Unknown)
}

fn scores(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Vec<f64>, GgufError> {
    let expected = "a finite number for each token";
    let number = |v: &Value| v.as_f64().filter(|x| x.is_finite());
    let scores = metadata.numbers(SCORES, expected, number)?;
    let scores = scores.ok_or(GgufError::MissingKey {
        key: SCORES.to_owned(),
        expected,
    })?;
    if scores.len() != vocabulary.len() {
        let (n, tokens) = (scores.len(), vocabulary.len());
        let got = format_args!("an array of {n} for {tokens} tokens");
        return Err(GgufError::value(SCORES, expected, got));
    }
    Ok(scores)
}

/// The pairs of tokens that make a third, as JSON.
pub(super) struct Cuts<'a> {
    vocabulary: &'a Vocabulary<'a>,
    cuts: Vec<Cut>,
}

/// A token that is made of two: small, since there may be one for every byte of the vocabulary.
struct Cut {
    id: u32,
    /// Bytes of the left part.
    at: u16,
    /// Characters of the left and the right part.
    chars: (u16, u16),
}

impl Serialize for Cuts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pair = |cut: &Cut| self.vocabulary.text(cut.id).split_at(cut.at.into());
        serializer.collect_seq(self.cuts.iter().map(pair))
    }
}

/// The pairs of tokens that make a third, most eager first.
///
/// SentencePiece joins, again and again, the neighbours whose joint token has the highest score, the leftmost of
/// equals. So every way to cut a token in two is a merge with that token's score. Among merges of one score the
/// longer left part comes first, as in the files that Hugging Face's own conversion of such vocabularies writes.
fn merges<'a>(vocabulary: &'a Vocabulary<'a>, scores: &[f64]) -> Result<Merges<'a>, GgufError> {
    let normal = |text: &str| {
        vocabulary
            .id(text)
            .filter(|&id| vocabulary.kind(id) == TokenKind::Normal)
    };
    let mut cuts = Vec::new();
    let mut ways = Vec::new();
    for (id, token, kind) in vocabulary.mergeable() {
        if kind != TokenKind::Normal {
            continue;
        }
        if token.len() > MAX_TOKEN_BYTES {
            let (id, token) = (id as usize, token.to_owned());
            let problem = "is longer than any token of such a vocabulary";
            return Err(GgufError::Token {
                key: TOKENS,
                id,
                token,
                problem,
            });
        }
        let n_chars = token.chars().count();
        ways.extend(
            token
                .char_indices()
                .skip(1)
                .enumerate()
                .filter_map(|(i, (at, _))| {
                    let (left, right) = token.split_at(at);
                    let parts = (normal(left)?, normal(right)?);
                    // All below `MAX_TOKEN_BYTES`.
                    let (at, chars) = (at as u16, ((i + 1) as u16, (n_chars - i - 1) as u16));
                    Some((parts, Cut { id, at, chars }))
                }),
        );
        ways.sort_by_key(|(parts, _)| *parts);
        cuts.extend(ways.drain(..).map(|(_, cut)| cut));
    }
    // A stable sort: equals stay in the order of their tokens.
    let score = |cut: &Cut| scores[cut.id as usize];
    cuts.sort_by(|a, b| {
        score(b)
            .total_cmp(&score(a))
            .then_with(|| Reverse(a.chars).cmp(&Reverse(b.chars)))
    });
    Ok(Merges::Cuts(Cuts { vocabulary, cuts }))
}
