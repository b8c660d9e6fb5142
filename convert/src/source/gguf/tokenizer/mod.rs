//! The tokenizer in a GGUF file's metadata as the `tokenizer.json` that it came from.
//!
//! GGUF has a tokenizer's tokens, their types and scores or merges, and a name for the rest. Where llama.cpp gives
//! such a name another meaning than the model's own tokenizer on Hugging Face's hub has, the hub's holds here:
//! it is the one that the model was trained with.

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use self::{
    sentencepiece::Cuts,
    vocabulary::{AddedTokens, TokenKind, Vocab, Vocabulary},
};
use super::{
    error::GgufError,
    generation::{BOS, EOS, PAD, UNK, token_id},
    metadata::Metadata,
};
use crate::source::TokenizerFiles;

mod byte_level;
mod sentencepiece;
mod vocabulary;

const MODEL: &str = "tokenizer.ggml.model";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

/// The parts of a `tokenizer.json` in which the kinds of tokenizers differ.
struct Parts<'a> {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Runs before the one that adds tokens around a text.
    post_processor: Option<Json>,
    decoder: Json,
    /// The fields of `model` beside `vocab` and `merges`.
    model: Json,
    merges: Merges<'a>,
    /// Whether BOS is put before a text where the file does not say.
    add_bos: bool,
}

/// The merges, most eager first.
#[derive(Serialize)]
#[serde(untagged)]
enum Merges<'a> {
    /// Two tokens with a space between them.
    Texts(Vec<&'a str>),
    /// Tokens cut in two.
    Cuts(Cuts<'a>),
}

/// A `tokenizer.json`. What is there once for each token is written from where it lies: as a tree of JSON values it
/// would take a hundred times the bytes that it has in the file.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: AddedTokens<'a>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: ModelJson<'a>,
}

#[derive(Serialize)]
struct ModelJson<'a> {
    #[serde(flatten)]
    fields: Json,
    vocab: Vocab<'a>,
    merges: Merges<'a>,
}

/// Whether the file has a tokenizer at all.
pub(super) fn is_there(metadata: &Metadata) -> Result<bool, GgufError> {
    Ok(!matches!(
        metadata.text(MODEL)?,
        None | Some("none" | "no_vocab")
    ))
}

/// The tokenizer of a model with `vocab_size` rows of embeddings.
pub(super) fn read(metadata: &Metadata, vocab_size: usize) -> Result<TokenizerFiles, GgufError> {
    let model = metadata.text(MODEL)?.ok_or(GgufError::MissingKey {
        key: MODEL.to_owned(),
        expected: "gpt2 or llama",
    })?;
    let vocabulary = Vocabulary::read(metadata, vocab_size)?;
    let parts = match model {
        "gpt2" => byte_level::read(metadata, &vocabulary)?,
        "llama" => sentencepiece::read(metadata, &vocabulary)?,
        other => {
            return Err(GgufError::Unsupported {
                key: MODEL.to_owned(),
                expected: "gpt2 or llama".to_owned(),
                got: other.to_owned(),
                hint: "other kinds of tokenizers are not implemented",
            });
        }
    };

    // A token that stands for nothing cannot stand for the end of a text.
    let id = |key| {
        let id = token_id(metadata, key, vocabulary.len())?;
        Ok(id.filter(|&id| vocabulary.kind(id) != TokenKind::Unused))
    };
    let (bos, eos, unk, pad) = (id(BOS)?, id(EOS)?, id(UNK)?, id(PAD)?);
    let add_bos = metadata.bool(ADD_BOS)?.unwrap_or(parts.add_bos);
    let add_eos = metadata.bool(ADD_EOS)?.unwrap_or(false);
    let around = |add, key: &str, id: Option<u32>| match (add, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => Err(GgufError::MissingKey {
            key: key.to_owned(),
            expected: "the id of a token",
        }),
    };
    let before = around(add_bos, BOS, bos)?;
    let after = around(add_eos, EOS, eos)?;

    let named = |id: Option<u32>| id.map(|id| vocabulary.text(id));
    let tokenizer = TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: vocabulary.added_tokens([bos, eos, unk, pad]),
        normalizer: parts.normalizer,
        pre_tokenizer: parts.pre_tokenizer,
        post_processor: post_processor(&vocabulary, parts.post_processor, before, after),
        decoder: parts.decoder,
        model: ModelJson {
            fields: parts.model,
            vocab: vocabulary.vocab(),
            merges: parts.merges,
        },
    };
    // Texts and numbers, written to memory, cannot fail; nobody would take an empty text for a tokenizer.
    let tokenizer_json = serde_json::to_vec(&tokenizer).unwrap_or_default();
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": named(bos),
        "eos_token": named(eos),
        "unk_token": named(unk),
        "pad_token": named(pad),
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
    });
    Ok(TokenizerFiles {
        tokenizer_json,
        tokenizer_config: Some(config),
    })
}

/// `first`, then the tokens around a text, where there are any.
fn post_processor(
    vocabulary: &Vocabulary<'_>,
    first: Option<Json>,
    before: Option<u32>,
    after: Option<u32>,
) -> Json {
    let special = |id: u32, type_id: u8| json!({"SpecialToken": {"id": vocabulary.text(id), "type_id": type_id}});
    let template = |sequence: &str, type_id: u8| {
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        let pieces = [before.map(|id| special(id, type_id)), Some(text)];
        pieces
            .into_iter()
            .chain([after.map(|id| special(id, type_id))])
            .flatten()
    };
    let tokens: Map<String, Json> = [before, after]
        .into_iter()
        .flatten()
        .map(|id| {
            let text = vocabulary.text(id);
            (
                text.to_owned(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            )
        })
        .collect();
    let around = (!tokens.is_empty()).then(|| {
        json!({
            "type": "TemplateProcessing",
            "single": template("A", 0).collect::<Vec<_>>(),
            "pair": template("A", 0).chain(template("B", 1)).collect::<Vec<_>>(),
            "special_tokens": tokens,
        })
    });
    match (first, around) {
        (Some(first), Some(around)) => json!({"type": "Sequence", "processors": [first, around]}),
        (first, around) => first.or(around).unwrap_or(Json::Null),
    }
}
