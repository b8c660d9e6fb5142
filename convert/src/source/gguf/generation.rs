//! What the metadata says about generating text.

use super::{
    error::{GgufError, Shown},
    metadata::{Metadata, Texts},
};
use crate::source::Generation;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const UNK: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const PAD: &str = "tokenizer.ggml.padding_token_id";
/// Ends a turn; ends a message that calls a tool.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Control tokens whose text says that they end an answer. Files name one end only, models have several.
const END_TEXTS: [&str; 9] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|end|>",
    "</s>",
];
/// `token_type` of a control token.
const CONTROL: i64 = 3;

/// The token id at `key`, which lies in a vocabulary of `n_tokens`.
pub(super) fn token_id(
    metadata: &Metadata,
    key: &str,
    n_tokens: usize,
) -> Result<Option<u32>, GgufError> {
    let Some(id) = metadata.uint(key)? else {
        return Ok(None);
    };
    match u32::try_from(id) {
        Ok(small) if (small as usize) < n_tokens => Ok(Some(small)),
        _ => Err(GgufError::value(
            key,
            format_args!("the id of one of {n_tokens} tokens"),
            id,
        )),
    }
}

/// Reads the defaults, and adds a note for each end of text that only its text gives away.
///
/// * `n_tokens`: rows of the embedding matrix.
pub(super) fn read(
    metadata: &Metadata,
    n_tokens: usize,
    notes: &mut Vec<String>,
) -> Result<Generation, GgufError> {
    let mut eos = Vec::new();
    for key in [EOS].into_iter().chain(ENDS) {
        if let Some(id) = token_id(metadata, key, n_tokens)?
            && !eos.contains(&id)
        {
            eos.push(id);
        }
    }
    if let Some(tokens) = metadata.texts(TOKENS)?
        && let Some(types) = metadata.numbers(TOKEN_TYPE, "token types", |v| v.as_i64())?
    {
        for (id, text) in ends_by_text(tokens, &types) {
            if (id as usize) < n_tokens && !eos.contains(&id) {
                notes.push(format!(
                    "control token {id}, {}, ends an answer, too",
                    Shown(text)
                ));
                eos.push(id);
            }
        }
    }
    let float = |name: &str| {
        let key = format!("general.sampling.{name}");
        match metadata.float(&key)? {
            Some(x) if x < 0.0 => Err(GgufError::value(key, "a number that is not negative", x)),
            x => Ok(x.map(|x| x as f32)),
        }
    };
    let top_k = "general.sampling.top_k";
    Ok(Generation {
        do_sample: None,
        eos,
        bos: token_id(metadata, BOS, n_tokens)?,
        temperature: float("temp")?,
        top_k: match metadata.uint(top_k)? {
            Some(k) => Some(
                u32::try_from(k).map_err(|_| GgufError::value(top_k, "at most 4294967295", k))?,
            ),
            None => None,
        },
        top_p: float("top_p")?,
        min_p: float("min_p")?,
        repetition_penalty: float("penalty_repeat")?,
    })
}

fn ends_by_text<'a>(tokens: &'a Texts, types: &[i64]) -> impl Iterator<Item = (u32, &'a str)> {
    let all = tokens.iter().zip(types).zip(0u32..);
    all.filter(|((text, kind), _)| **kind == CONTROL && END_TEXTS.contains(text))
        .map(|((text, _), id)| (id, text))
}
