//! A byte-level BPE tokenizer for the tiny models.

use serde_json::{Map, Value, json};

/// The tiny models' chat template.
pub const TINY_CHAT_TEMPLATE: &str = "{% for message in messages %}<|turn|>{{ message['role'] }}\n\
    {{ message['content'] }}<|eot|>{% endfor %}\
    {% if add_generation_prompt %}<|turn|>assistant\n{% endif %}";

/// Pairs that are merged, in order; a space is spelt `Ġ` as byte-level BPE does.
const MERGES: [(&str, &str); 56] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġ", "a"),
    ("i", "n"),
    ("Ġt", "he"),
    ("e", "r"),
    ("o", "n"),
    ("r", "e"),
    ("Ġ", "s"),
    ("Ġ", "w"),
    ("a", "t"),
    ("n", "d"),
    ("o", "u"),
    ("Ġ", "o"),
    ("i", "s"),
    ("e", "n"),
    ("Ġ", "b"),
    ("o", "r"),
    ("e", "s"),
    ("Ġ", "c"),
    ("i", "t"),
    ("a", "n"),
    ("e", "d"),
    ("Ġ", "f"),
    ("a", "l"),
    ("in", "g"),
    ("Ġ", "p"),
    ("Ġo", "f"),
    ("Ġa", "nd"),
    ("a", "r"),
    ("Ġt", "o"),
    ("Ġ", "m"),
    ("Ġ", "d"),
    ("Ġ", "in"),
    ("i", "c"),
    ("Ġ", "h"),
    ("l", "e"),
    ("r", "o"),
    ("Ġ", "l"),
    ("s", "t"),
    ("i", "on"),
    ("Ġ", "n"),
    ("Ġ", "e"),
    ("l", "l"),
    ("Ġ", "re"),
    ("v", "e"),
    ("Ġ", "g"),
    ("a", "s"),
    ("i", "l"),
    ("o", "m"),
    ("u", "r"),
    ("c", "h"),
    ("e", "t"),
    ("o", "t"),
    ("Ġ", "is"),
    ("c", "e"),
];

/// The first special token: 256 bytes and the merges come before.
const FIRST_SPECIAL: usize = 256 + MERGES.len();

/// Special tokens from id 312 on.
const SPECIALS: [&str; 4] = ["<|begin|>", "<|end|>", "<|turn|>", "<|eot|>"];

/// The character that stands for a byte in byte-level BPE: printable ones for themselves, the others
/// from U+0100 on.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The `tokenizer.json` of a tiny model: byte-level BPE of 256 bytes (ids 0 to 255 are the bytes), 56
/// merges, special tokens `<|begin|>` (312), `<|end|>`, `<|turn|>`, `<|eot|>`, and reserved ones up to
/// `vocab_size`.
///
/// # Panics
///
/// If `vocab_size` is below 316.
pub fn tiny_tokenizer(vocab_size: usize) -> Value {
    assert!(
        vocab_size >= FIRST_SPECIAL + SPECIALS.len(),
        "{vocab_size} tokens"
    );
    let mut vocab = Map::new();
    for byte in 0..=255 {
        vocab.insert(byte_char(byte).to_string(), json!(byte));
    }
    for (i, (a, b)) in MERGES.iter().enumerate() {
        vocab.insert(format!("{a}{b}"), json!(256 + i));
    }
    let added: Vec<_> = (FIRST_SPECIAL..vocab_size)
        .map(|id| {
            let i = id - FIRST_SPECIAL;
            let reserved = || format!("<|reserved_{i}|>");
            json!({
                "id": id,
                "content": SPECIALS.get(i).map_or_else(reserved, ToString::to_string),
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": true,
            })
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": true,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_one_token_and_merges_join_known_tokens() {
        let json = tiny_tokenizer(330);
        let vocab = json["model"]["vocab"].as_object().unwrap();
        let mut ids: Vec<_> = vocab.values().map(|v| v.as_u64().unwrap()).collect();
        ids.extend(
            json["added_tokens"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["id"].as_u64().unwrap()),
        );
        ids.sort_unstable();
        assert_eq!(ids, (0..330).collect::<Vec<_>>());
        for (a, b) in MERGES {
            assert!(vocab.contains_key(a) && vocab.contains_key(b), "{a} {b}");
        }
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(b'\n'), 'Ċ');
    }
}
