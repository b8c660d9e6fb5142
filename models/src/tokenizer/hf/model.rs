//! `model`: the vocabulary and the merges.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::fields::{Fields, invalid, unsupported};
use crate::tokenizer::{
    TokenizerError,
    bytes::bytes_of,
    merges::{MAX_MERGES, Merges},
    spec::Alphabet,
    vocab::{FINDABLE, MAX_IDS, MAX_TOKEN_BYTES, PRESENT, Vocab},
};

type Result<T> = std::result::Result<T, TokenizerError>;

/// What `model` says.
pub(super) struct Model {
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
    pub(super) unk: Option<u32>,
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

pub(super) fn read(value: &Value, alphabet: Alphabet) -> Result<Model> {
    let mut fields = Fields::new(value, "model")?;
    // Files of old versions leave the type out.
    if let Some(kind) = fields
        .take("type")
        .filter(|kind| kind.as_str() != Some("BPE"))
    {
        return Err(unsupported(fields.path("type"), kind));
    }
    if let Some(dropout) = fields
        .take("dropout")
        .filter(|dropout| dropout.as_f64() != Some(0.0))
    {
        return Err(unsupported(fields.path("dropout"), dropout));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(affix) = fields.take(key).filter(|affix| affix.as_str() != Some("")) {
            return Err(unsupported(fields.path(key), affix));
        }
    }
    let ids = match fields.need("vocab")? {
        Value::Object(ids) => ids,
        other => return Err(invalid("model.vocab", "an object", other)),
    };
    let vocab = vocab(ids, alphabet)?;
    let by_text: HashMap<&str, u32> = ids
        .iter()
        .map(|(text, id)| (text.as_str(), id.as_u64().unwrap_or(0) as u32))
        .collect();
    let merges = merges(fields.list("merges")?, &by_text)?;
    let unk = match fields.take("unk_token") {
        None => None,
        Some(value) => {
            let text = fields.text("unk_token")?;
            let path = fields.path("unk_token");
            let id = by_text.get(text);
            Some(*id.ok_or_else(|| invalid(&path, "a token of `model.vocab`", value))?)
        }
    };
    let model = Model {
        vocab,
        merges,
        unk,
        fuse_unk: fields.bool_or("fuse_unk", false)?,
        byte_fallback: fields.bool_or("byte_fallback", false)?,
        ignore_merges: fields.bool_or("ignore_merges", false)?,
    };
    fields.done()?;
    Ok(model)
}

/// The text of a token and its bytes in the vocabulary, findable or not.
fn token_bytes(text: &str, alphabet: Alphabet) -> (Vec<u8>, u8) {
    match alphabet {
        Alphabet::Chars => (text.as_bytes().to_vec(), PRESENT | FINDABLE),
        Alphabet::Bytes => match bytes_of(text) {
            Some(bytes) => (bytes, PRESENT | FINDABLE),
            None => (text.as_bytes().to_vec(), PRESENT),
        },
    }
}

fn vocab(ids: &Map<String, Value>, alphabet: Alphabet) -> Result<Vocab> {
    let path = |text: &str| format!("model.vocab[{text:?}]");
    let mut tokens: Vec<(u32, &str)> = Vec::with_capacity(ids.len());
    for (text, value) in ids {
        let id = value.as_u64().filter(|&id| id < MAX_IDS as u64);
        let id = id.ok_or_else(|| invalid(&path(text), "an id below 4194304", value))?;
        tokens.push((id as u32, text));
    }
    tokens.sort_unstable();
    let n_ids = tokens.last().map_or(0, |&(id, _)| id as usize + 1);
    let (mut bytes, mut lens, mut flags) = (Vec::new(), vec![0; n_ids], vec![0; n_ids]);
    for &(id, text) in &tokens {
        if flags[id as usize] != 0 {
            return Err(invalid(
                &path(text),
                "an id that no other token has",
                &id.into(),
            ));
        }
        let (token, token_flags) = token_bytes(text, alphabet);
        if token.len() > MAX_TOKEN_BYTES {
            let len = token.len().into();
            return Err(invalid(&path(text), "a token of at most 65535 bytes", &len));
        }
        (lens[id as usize], flags[id as usize]) = (token.len() as u16, token_flags);
        bytes.extend(token);
    }
    Ok(Vocab::new(bytes, &lens, flags))
}

fn merges(list: &[Value], ids: &HashMap<&str, u32>) -> Result<Merges> {
    if list.len() > MAX_MERGES {
        return Err(invalid(
            "model.merges",
            "at most 16777216",
            &list.len().into(),
        ));
    }
    let mut rules = Vec::with_capacity(list.len());
    let mut joined = String::new();
    for (i, value) in list.iter().enumerate() {
        let path = || format!("model.merges[{i}]");
        let (left, right) = match value {
            // A header that files of old versions begin with.
            Value::String(text) if text.starts_with("#version") => continue,
            Value::String(text) => text
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Some((&left[..], &right[..])),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| invalid(&path(), "two tokens", value))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |token: &str| {
            let id = ids.get(token).copied();
            id.ok_or_else(|| invalid(&path(), "made of tokens of `model.vocab`", value))
        };
        rules.push([id(left)?, id(right)?, id(&joined)?]);
    }
    Ok(Merges::new(rules.into_iter()))
}
