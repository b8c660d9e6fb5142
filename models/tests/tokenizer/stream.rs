//! Text comes in whole characters.

use chaski_models::{
    TokenId,
    tokenizer::{DecodeOptions, Specials, StreamDecoder, TextStart, Tokenizer},
};
use proptest::prelude::*;

use crate::common::{CORPUS, tokenizer};

/// The text of each token in turn, and what is left at the end.
fn texts(tokenizer: &Tokenizer, ids: &[TokenId], options: DecodeOptions) -> Vec<String> {
    let mut decoder = StreamDecoder::new(options);
    let mut texts: Vec<String> = ids.iter().map(|&id| decoder.push(tokenizer, id)).collect();
    texts.push(decoder.finish());
    texts
}

/// The tokens of single bytes.
fn byte_ids(tokenizer: &Tokenizer, bytes: &[u8]) -> Vec<TokenId> {
    let id = |byte: &u8| {
        let of_byte = |id: &TokenId| tokenizer.token_bytes(*id) == Some(&[*byte]);
        (0..tokenizer.vocab_size() as u32)
            .map(TokenId)
            .find(of_byte)
            .unwrap()
    };
    bytes.iter().map(id).collect()
}

#[test]
fn a_character_comes_with_its_last_byte() {
    for name in ["llama3", "sp_legacy"] {
        let tokenizer = tokenizer(name);
        let ids = byte_ids(&tokenizer, "aé漢👍".as_bytes());
        let got = texts(&tokenizer, &ids, DecodeOptions::default());
        assert_eq!(
            got,
            ["a", "", "é", "", "", "漢", "", "", "", "👍", ""],
            "{name}"
        );
    }
}

#[test]
fn bytes_become_a_replacement_as_soon_as_they_cannot_be_a_character() {
    let tokenizer = tokenizer("llama3");
    for (bytes, want) in [
        (&b"\xff"[..], &["\u{fffd}", ""][..]),
        (b"\xc3a", &["", "\u{fffd}a", ""]),
        (b"\xc3\xc3\xa9", &["", "\u{fffd}", "é", ""]),
        (b"\xe6\xbc", &["", "", "\u{fffd}"]),
        (b"\xe0\x80", &["", "\u{fffd}\u{fffd}", ""]),
        (b"\xf0\x9f\x91a", &["", "", "", "\u{fffd}a", ""]),
        (b"\xed\xa0\x80", &["", "\u{fffd}\u{fffd}", "\u{fffd}", ""]),
        (b"\x80b", &["\u{fffd}", "b", ""]),
    ] {
        let got = texts(
            &tokenizer,
            &byte_ids(&tokenizer, bytes),
            DecodeOptions::default(),
        );
        assert_eq!(got, want, "{bytes:x?}");
        assert_eq!(got.concat(), String::from_utf8_lossy(bytes), "{bytes:x?}");
    }
}

#[test]
fn a_space_before_the_text_is_dropped_once_unless_the_text_continues() {
    let tokenizer = tokenizer("sp_legacy");
    let ids = tokenizer.encode("the end the", Specials::AsText).unwrap();
    let with = |start| {
        let options = DecodeOptions {
            start,
            ..DecodeOptions::default()
        };
        texts(&tokenizer, &ids, options).concat()
    };
    assert_eq!(with(TextStart::Beginning), "the end the");
    assert_eq!(with(TextStart::Continued), " the end the");
    // A hidden token does not begin the text, a shown one does.
    let ids = [&[tokenizer.special_id("<s>").unwrap()], &ids[..]].concat();
    for (show_specials, want) in [(false, "the end the"), (true, "<s> the end the")] {
        let options = DecodeOptions {
            show_specials,
            start: TextStart::Beginning,
        };
        assert_eq!(texts(&tokenizer, &ids, options).concat(), want);
    }
}

#[test]
fn a_hidden_token_does_not_break_a_character_and_a_shown_one_does() {
    let tokenizer = tokenizer("llama3");
    let eot = tokenizer.special_id("<|eot_id|>").unwrap();
    let bytes = byte_ids(&tokenizer, "é".as_bytes());
    let ids = [bytes[0], eot, bytes[1]];
    for (show_specials, want) in [
        (false, ["", "", "é", ""]),
        (true, ["", "\u{fffd}<|eot_id|>", "\u{fffd}", ""]),
    ] {
        let options = DecodeOptions {
            show_specials,
            start: TextStart::Beginning,
        };
        assert_eq!(texts(&tokenizer, &ids, options), want);
    }
}

#[test]
fn an_id_without_a_token_is_seen() {
    let tokenizer = tokenizer("llama3");
    let none = TokenId(tokenizer.vocab_size() as u32);
    let half = byte_ids(&tokenizer, b"\xc3")[0];
    let got = texts(
        &tokenizer,
        &[half, none, TokenId(u32::MAX)],
        DecodeOptions::default(),
    );
    assert_eq!(got, ["", "\u{fffd}\u{fffd}", "\u{fffd}", ""]);
}

#[test]
fn the_corpus_comes_back() {
    for name in ["llama3", "sp_legacy", "sp_metaspace"] {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode(CORPUS, Specials::AsText).unwrap();
        assert_eq!(
            texts(&tokenizer, &ids, DecodeOptions::default()).concat(),
            CORPUS,
            "{name}"
        );
    }
}

proptest! {
    #[test]
    fn any_tokens_together_are_the_text_of_their_bytes(
        ids in prop::collection::vec(0u32..760, 0..40),
    ) {
        let tokenizer = tokenizer("llama3");
        let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| tokenizer.token_bytes(id).unwrap_or("\u{fffd}".as_bytes()).to_vec())
            .collect();
        let options = DecodeOptions { show_specials: true, start: TextStart::Beginning };
        let got = texts(&tokenizer, &ids, options);
        prop_assert_eq!(got.concat(), String::from_utf8_lossy(&bytes));
    }
}
