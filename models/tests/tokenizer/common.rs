//! The fixtures, and texts made from a seed.

use chaski_models::{TokenId, tokenizer::Tokenizer};
use serde_json::Value;

/// The fixtures' `tokenizer.json`; `scripts/make_tokenizer_fixtures.py` makes them.
pub(crate) const FIXTURES: [(&str, &str); 6] = [
    ("llama3", include_str!("../fixtures/tokenizers/llama3.json")),
    ("qwen", include_str!("../fixtures/tokenizers/qwen.json")),
    ("smollm", include_str!("../fixtures/tokenizers/smollm.json")),
    (
        "sp_legacy",
        include_str!("../fixtures/tokenizers/sp_legacy.json"),
    ),
    (
        "sp_metaspace",
        include_str!("../fixtures/tokenizers/sp_metaspace.json"),
    ),
    (
        "sp_unknown",
        include_str!("../fixtures/tokenizers/sp_unknown.json"),
    ),
];

/// Text in many scripts, and code.
pub(crate) const CORPUS: &str = include_str!("../fixtures/tokenizers/corpus.txt");

pub(crate) fn fixture(name: &str) -> &'static str {
    FIXTURES.iter().find(|(other, _)| *other == name).unwrap().1
}

pub(crate) fn fixture_json(name: &str) -> Value {
    serde_json::from_str(fixture(name)).unwrap()
}

pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_hf(fixture(name).as_bytes(), None).unwrap()
}

pub(crate) fn numbers(ids: &[TokenId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}
