//! From text to tokens and back, with the ids that Hugging Face's `tokenizers` gives.
//!
//! [`Tokenizer::from_hf`] reads a `tokenizer.json` whose model is byte pair encoding, over bytes
//! (Llama 3, Qwen, SmolLM) or over characters with bytes to fall back on (SentencePiece's, as Llama
//! 2, TinyLlama and Mistral have it). A part of the file that is not understood is an error that
//! names it. Two things in it are understood and have no effect: `truncation` and `padding`, which
//! a caller of Hugging Face's library switches on or off at each call as well.
//!
//! Special tokens are recognised in a text only where the caller says so: what a user typed is
//! encoded with [`Specials::AsText`], and `<|im_end|>` in it is ten characters and no end of a turn.
//!
//! ```
//! use chaski_models::tokenizer::{DecodeOptions, Specials, StreamDecoder, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let json = r#"{
//!   "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
//!   "added_tokens": [{"id": 4, "content": "<end>", "single_word": false, "lstrip": false,
//!                     "rstrip": false, "normalized": false, "special": true}],
//!   "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
//!                     "use_regex": true},
//!   "post_processor": null,
//!   "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
//!               "use_regex": true},
//!   "model": {"type": "BPE", "dropout": null, "unk_token": null,
//!             "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
//!             "byte_fallback": false, "ignore_merges": false,
//!             "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"]}
//! }"#;
//! let tokenizer = Tokenizer::from_hf(json.as_bytes(), None)?;
//! let ids = tokenizer.encode("ab a<end>", Specials::Parse)?;
//! assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), [2, 3, 0, 4]);
//!
//! let mut decoder = StreamDecoder::new(DecodeOptions::default());
//! let text: String = ids.iter().map(|&id| decoder.push(&tokenizer, id)).collect();
//! assert_eq!(text + &decoder.finish(), "ab a");
//! # Ok(())
//! # }
//! ```
//!
//! A container holds two forms: [`compress_canonical`] of the `tokenizer.json` itself, and
//! [`Tokenizer::to_fast`], which loads in milliseconds.

mod added;
mod bytes;
mod canonical;
mod decode;
mod encode;
mod error;
mod fast;
mod hf;
mod merges;
mod normalize;
mod spec;
mod split;
mod stream;
mod vocab;

pub use canonical::{compress_canonical, decompress_canonical};
pub use error::TokenizerError;
pub use fast::FAST_VERSION;
pub use stream::{DecodeOptions, StreamDecoder, TextStart};

use std::ops::Range;

use crate::TokenId;
use added::{AddedTokens, Parsed};
use decode::Decoded;
use encode::NO_TOKEN;
use merges::Merges;
use normalize::Normalizers;
use spec::{Alphabet, Spec};
use split::PreTokenizers;
use vocab::Vocab;

/// What the text of a special token in a text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// The token: for text that a chat template rendered.
    Parse,
    /// Its characters: for text that somebody wrote. Added tokens that are not special (a tool
    /// call's `<tool_call>`, as some models have it) are words like others and are still found.
    AsText,
}

/// A text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens, none added.
    pub ids: Vec<TokenId>,
    /// How many characters (byte-level: bytes) had no token and were left out, as Hugging Face's
    /// tokenizers do where the vocabulary has no unknown token either. SmolLM2, for one, has no
    /// token for some control characters.
    pub n_dropped: usize,
    /// The first of these characters, as the text has it after normalisation.
    pub first_dropped: Option<char>,
    /// How many characters (byte-level: bytes) had no token and became the unknown token, several in
    /// a row perhaps one of it.
    pub n_unknown: usize,
    /// The first of these, as `first_dropped`.
    pub first_unknown: Option<char>,
}

/// A vocabulary and the rules by which texts become tokens of it.
#[derive(Debug)]
pub struct Tokenizer {
    spec: Spec,
    vocab: Vocab,
    merges: Merges,
    normalizers: Normalizers,
    pre_tokenizers: PreTokenizers,
    added: AddedTokens,
    /// Tokens of single bytes: all of them, or those to fall back on.
    byte_ids: [u32; 256],
    /// Tokens of the ASCII characters, where the alphabet is characters.
    ascii_ids: [u32; 128],
    /// No merge joins a character and a visible space after it.
    words_are_apart: bool,
    /// The tokens' text, where it is not the vocabulary's.
    decoded: Option<Decoded>,
}

impl Tokenizer {
    /// Puts the parts together; they have been checked.
    fn new(spec: Spec, mut vocab: Vocab, mut merges: Merges) -> Result<Self, TokenizerError> {
        // Where special tokens are parsed their texts never reach the merges; where they are not,
        // no merge may make one.
        let specials: Vec<u32> = (spec.added.iter().filter(|token| token.special))
            .map(|token| token.id)
            .filter(|&id| Some(id) != spec.unk && vocab.get(id).is_some())
            .collect();
        specials.iter().for_each(|&id| vocab.clear_whole(id));
        merges.drop_rules_to(&specials);
        let normalizers = Normalizers::new(&spec.normalizers)?;
        let pre_tokenizers = PreTokenizers::new(&spec.pre_tokenizers)?;
        let added = AddedTokens::new(spec.added.clone(), &normalizers)?;
        let mut byte_ids = [NO_TOKEN; 256];
        let mut ascii_ids = [NO_TOKEN; 128];
        let mut words_are_apart = false;
        let mut decoded = None;
        match spec.alphabet {
            Alphabet::Bytes => {
                for (byte, id) in (0..=u8::MAX).zip(&mut byte_ids) {
                    *id = vocab.find(&[byte]).unwrap_or(NO_TOKEN);
                }
            }
            Alphabet::Chars => {
                for (byte, id) in (0..=u8::MAX).zip(&mut byte_ids) {
                    let token = format!("<0x{byte:02X}>");
                    *id = vocab.find(token.as_bytes()).unwrap_or(NO_TOKEN);
                }
                for (byte, id) in (0..=u8::MAX).zip(&mut ascii_ids) {
                    *id = vocab.find(&[byte]).unwrap_or(NO_TOKEN);
                }
                words_are_apart = encode::words_are_apart(&spec, &vocab, &merges, &byte_ids);
                decoded = Some(Decoded::new(&spec.decoder, &vocab));
            }
        }
        Ok(Self {
            spec,
            vocab,
            merges,
            normalizers,
            pre_tokenizers,
            added,
            byte_ids,
            ascii_ids,
            words_are_apart,
            decoded,
        })
    }

    /// The tokens of `text`; nothing is put before or after it.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Match`] where an expression needs too many steps for this text,
    /// [`TokenizerError::TextTooLong`] beyond 256 MiB, and [`TokenizerError::NormalizedTooLong`]
    /// where the normalizer makes far more of the text than it is.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<TokenId>, TokenizerError> {
        Ok(self.encode_counted(text, specials)?.ids)
    }

    /// As [`encode`](Self::encode), and how much of the text has no token.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_counted(
        &self,
        text: &str,
        specials: Specials,
    ) -> Result<Encoded, TokenizerError> {
        match specials {
            Specials::Parse => self.encode_text(text, Parsed::Everywhere),
            Specials::AsText => self.encode_text(text, Parsed::nowhere(&(0..text.len()))),
        }
    }

    /// The tokens of a text that a chat template rendered, in which somebody else wrote the ranges
    /// `written` (bytes): special tokens are parsed outside of them only.
    ///
    /// A token that reaches into such a range, or that normalisation makes with a part of one, is
    /// text. Where there is none the ids are those of [`Specials::Parse`] for the whole text: words
    /// may begin before a range and end in it.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    ///
    /// # Panics
    ///
    /// If the ranges are not in order, overlap, or do not begin and end at characters of the text.
    pub fn encode_rendered(
        &self,
        text: &str,
        written: &[Range<usize>],
    ) -> Result<Encoded, TokenizerError> {
        let mut done = 0;
        for range in written {
            assert!(
                done <= range.start && text.get(range.clone()).is_some(),
                "{range:?} is no range of the text, or not after the one before"
            );
            done = range.end;
        }
        self.encode_text(text, Parsed::Outside(written))
    }

    /// The token that has to stand before a raw text, if the model was trained with one: what
    /// `add_bos_token` of `tokenizer_config.json` says, else the template of `post_processor`.
    pub fn bos(&self) -> Option<TokenId> {
        self.spec.special.before_text.map(TokenId)
    }

    /// Whether the model was trained with [`eos`](Self::eos) after each text: what `add_eos_token`
    /// says, else the template of `post_processor`. Nothing that is to be continued ends in it.
    pub fn eos_after_text(&self) -> bool {
        self.spec.special.eos_after_text
    }

    /// The token that `tokenizer_config.json` calls `bos_token`, whether texts begin with it or
    /// not.
    pub fn bos_token(&self) -> Option<TokenId> {
        self.spec.special.bos.map(TokenId)
    }

    /// The token that `tokenizer_config.json` calls `eos_token`.
    pub fn eos(&self) -> Option<TokenId> {
        self.spec.special.eos.map(TokenId)
    }

    /// The token that `tokenizer_config.json` calls `pad_token`.
    pub fn pad(&self) -> Option<TokenId> {
        self.spec.special.pad.map(TokenId)
    }

    /// The token for what the vocabulary cannot spell: the model's, else the one that
    /// `tokenizer_config.json` calls `unk_token`.
    pub fn unk(&self) -> Option<TokenId> {
        self.spec.unk.or(self.spec.special.unk).map(TokenId)
    }

    /// The bytes that a token adds to a text, before a leading space is dropped (see
    /// [`StreamDecoder`]); they need not be whole characters. Of added tokens, special ones too,
    /// their text. `None`: there is no such token.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        if let Some(token) = self.added.get(id.0) {
            return Some(token.content.as_bytes());
        }
        match &self.decoded {
            Some(decoded) => decoded.get(id.0).filter(|_| self.vocab.get(id.0).is_some()),
            None => self.vocab.get(id.0),
        }
    }

    /// Whether `id` is an added token that steers the model and is no part of what it says.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.added.get(id.0).is_some_and(|token| token.special)
    }

    /// The special token with just this text.
    pub fn special_id(&self, text: &str) -> Option<TokenId> {
        let found = self
            .added
            .tokens()
            .iter()
            .find(|token| token.special && token.content == text);
        found.map(|token| TokenId(token.id))
    }

    /// The special tokens and their texts, by id.
    pub fn specials(&self) -> impl Iterator<Item = (TokenId, &str)> {
        let tokens = self.added.tokens().iter().filter(|token| token.special);
        tokens.map(|token| (TokenId(token.id), token.content.as_str()))
    }

    /// The highest id plus one. A model's table of embeddings may have more rows.
    pub fn vocab_size(&self) -> usize {
        let added = self
            .added
            .tokens()
            .last()
            .map_or(0, |token| token.id as usize + 1);
        self.vocab.n_ids().max(added)
    }
}
