//! Tokens to text, one after the other.

use super::Tokenizer;
use crate::TokenId;

/// Where a decoded text begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextStart {
    /// With the first token: a vocabulary that writes a space before each text drops it again, as
    /// Hugging Face's `decode` does.
    #[default]
    Beginning,
    /// Before the first token; what comes continues it, and a space there is part of it.
    Continued,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Special tokens appear as their text; otherwise they are left out.
    pub show_specials: bool,
    /// Where the text begins.
    pub start: TextStart,
}

/// Turns tokens into text as they come, in whole characters.
///
/// A token may end inside a character: its bytes wait for the next token. Bytes that cannot become
/// a character any more are U+FFFD, one for each longest start of a character, as
/// [`String::from_utf8_lossy`] has it; so the texts of all calls together are that of all bytes
/// together. An id that is no token is U+FFFD too.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    options: DecodeOptions,
    /// The start of a character.
    waiting: [u8; 4],
    n_waiting: usize,
    /// Characters that may still be dropped at the start of the text, at most this many; `None`
    /// until the first token says how many.
    to_strip: Option<u32>,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new(options: DecodeOptions) -> Self {
        Self {
            options,
            waiting: [0; 4],
            n_waiting: 0,
            to_strip: None,
        }
    }

    /// The text that `id` completes; empty if it completes no character.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId) -> String {
        let mut text = String::new();
        self.push_to(tokenizer, id, &mut text);
        text
    }

    /// As [`push`](Self::push), to the end of `out`.
    pub fn push_to(&mut self, tokenizer: &Tokenizer, id: TokenId, out: &mut String) {
        if tokenizer.is_special(id) && !self.options.show_specials {
            return;
        }
        let from = out.len();
        match tokenizer.token_bytes(id) {
            Some(bytes) => self.push_bytes(bytes, out),
            None => {
                self.flush(out);
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.strip(tokenizer, from, out);
    }

    /// The end of the text: what waits will not become a character.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.flush(&mut text);
        text
    }

    fn push_bytes(&mut self, mut bytes: &[u8], out: &mut String) {
        // A waiting start takes byte by byte until it is a character or cannot be one any more.
        while self.n_waiting > 0 {
            let Some((&byte, rest)) = bytes.split_first() else {
                return;
            };
            self.waiting[self.n_waiting] = byte;
            match std::str::from_utf8(&self.waiting[..=self.n_waiting]) {
                Ok(character) => {
                    out.push_str(character);
                    self.n_waiting = 0;
                    bytes = rest;
                }
                Err(err) if err.error_len().is_none() => {
                    self.n_waiting += 1;
                    bytes = rest;
                }
                // The byte does not continue the start: it is looked at again by itself.
                Err(_) => self.flush(out),
            }
        }
        for chunk in bytes.utf8_chunks() {
            out.push_str(chunk.valid());
            let invalid = chunk.invalid();
            let may_become_valid =
                std::str::from_utf8(invalid).is_err_and(|err| err.error_len().is_none());
            if may_become_valid {
                self.waiting[..invalid.len()].copy_from_slice(invalid);
                self.n_waiting = invalid.len();
            } else if !invalid.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    fn flush(&mut self, out: &mut String) {
        if self.n_waiting > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.n_waiting = 0;
        }
    }

    /// Drops from `out[from..]` what the vocabulary puts before a text.
    fn strip(&mut self, tokenizer: &Tokenizer, from: usize, out: &mut String) {
        let Some((space, max)) = tokenizer.spec.decoder.strip else {
            return;
        };
        let to_strip = self.to_strip.get_or_insert(match self.options.start {
            TextStart::Beginning => max,
            TextStart::Continued => 0,
        });
        while *to_strip > 0 && out.len() > from {
            if out[from..].starts_with(space) {
                out.remove(from);
                *to_strip -= 1;
            } else {
                *to_strip = 0;
            }
        }
    }
}
