//! From a text to its tokens.

use std::{borrow::Cow, ops::Range};

use super::{
    Encoded, TokenId, Tokenizer,
    added::{Parsed, Part},
    error::TokenizerError,
    merges::{Merges, Scratch},
    spec::{Alphabet, Spec},
    vocab::Vocab,
};

/// A text has at most so many bytes,
const MAX_TEXT_BYTES: usize = 1 << 28;
/// and so many when it is normalised: positions of symbols are 32 bits,
const MAX_NORMALIZED_BYTES: usize = 1 << 30;
/// but no more than this, and so many more for each byte that it had. Of Unicode's forms the one
/// that grows the most has eleven bytes for one.
const NORMALIZED_BYTES: usize = 64 << 10;
const NORMALIZED_PER_BYTE: usize = 16;
/// Stands for no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;
/// SentencePiece's visible space.
const META_SPACE: char = '▁';

/// What the pieces of one text become, and room for their symbols.
#[derive(Debug, Default)]
pub(super) struct Output {
    ids: Vec<TokenId>,
    n_dropped: usize,
    first_dropped: Option<char>,
    n_unknown: usize,
    first_unknown: Option<char>,
    symbols: Vec<u32>,
    scratch: Scratch,
}

impl Tokenizer {
    pub(super) fn encode_text(
        &self,
        text: &str,
        parsed: Parsed<'_>,
    ) -> Result<Encoded, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong {
                len: text.len(),
                max: MAX_TEXT_BYTES,
            });
        }
        let mut out = Output::default();
        for part in self.added.split_raw(text, parsed) {
            match part {
                Part::Token(id) => out.ids.push(TokenId(id)),
                Part::Text(range) => {
                    let (part, is_first) = (&text[range.clone()], range.start == 0);
                    match parsed {
                        Parsed::Everywhere => self.encode_part(part, is_first, parsed, &mut out)?,
                        Parsed::Outside(ranges) => {
                            let ranges = within(ranges, &range);
                            self.encode_part(part, is_first, Parsed::Outside(&ranges), &mut out)?;
                        }
                    }
                }
            }
        }
        Ok(Encoded {
            ids: out.ids,
            n_dropped: out.n_dropped,
            first_dropped: out.first_dropped,
            n_unknown: out.n_unknown,
            first_unknown: out.first_unknown,
        })
    }

    /// A part without tokens that are searched for in the text as given.
    fn encode_part(
        &self,
        part: &str,
        is_first: bool,
        parsed: Parsed<'_>,
        out: &mut Output,
    ) -> Result<(), TokenizerError> {
        let text = self.normalized(part)?;
        let parts = match parsed {
            Parsed::Outside(ranges) if self.added.has_normalized_specials() => {
                let ranges = self.normalized_ranges(part, &text, ranges)?;
                self.added.split_normalized(&text, Parsed::Outside(&ranges))
            }
            _ => self.added.split_normalized(&text, Parsed::Everywhere),
        };
        for part in parts {
            match part {
                Part::Token(id) => out.ids.push(TokenId(id)),
                Part::Text(range) => {
                    let is_first = is_first && range.start == 0;
                    let pieces = self.pre_tokenizers.apply(&text[range], is_first)?;
                    for range in &pieces.ranges {
                        self.encode_piece(&pieces.text[range.clone()], out);
                    }
                }
            }
        }
        Ok(())
    }

    fn normalized<'t>(&self, part: &'t str) -> Result<Cow<'t, str>, TokenizerError> {
        let max = (NORMALIZED_BYTES + NORMALIZED_PER_BYTE * part.len()).min(MAX_NORMALIZED_BYTES);
        self.normalizers.apply(part, max)
    }

    /// Where the `ranges` of `part` are in `text`, which is `part` normalised; what cannot be told
    /// to be outside of them is inside.
    ///
    /// What is before a range and normalised by itself begins `text`, up to where the range had a
    /// part in it; likewise with what is after it.
    fn normalized_ranges(
        &self,
        part: &str,
        text: &str,
        ranges: &[Range<usize>],
    ) -> Result<Vec<Range<usize>>, TokenizerError> {
        let found = self.added.split_normalized(text, Parsed::Everywhere);
        let is_special = |part: &Part| match part {
            Part::Token(id) => self.is_special(TokenId(*id)),
            Part::Text(_) => false,
        };
        if !found.iter().any(is_special) {
            return Ok(Vec::new());
        }
        if part == text {
            return Ok(ranges.to_vec());
        }
        let same =
            |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
        let place = |range: &Range<usize>| {
            let before = self.normalized(&part[..range.start])?;
            let after = self.normalized(&part[range.end..])?;
            let start = same(&mut before.bytes().zip(text.bytes()));
            let end = same(&mut after.bytes().rev().zip(text.bytes().rev()));
            Ok(start..text.len() - end)
        };
        ranges.iter().map(place).collect()
    }

    fn encode_piece(&self, piece: &str, out: &mut Output) {
        if self.spec.ignore_merges
            && let Some(id) = self.vocab.find(piece.as_bytes())
            && !self.is_special(TokenId(id))
        {
            out.ids.push(TokenId(id));
            return;
        }
        if !self.words_are_apart {
            self.encode_word(piece, out);
            return;
        }
        // No token reaches from a character over a visible space, so no merge does: words are
        // independent of each other, and short ones are quicker.
        let mut start = 0;
        let mut previous = META_SPACE;
        for (at, c) in piece.char_indices() {
            if c == META_SPACE && previous != META_SPACE {
                self.encode_word(&piece[start..at], out);
                start = at;
            }
            previous = c;
        }
        self.encode_word(&piece[start..], out);
    }

    fn encode_word(&self, word: &str, out: &mut Output) {
        if let Some(id) = self.vocab.find_whole(word.as_bytes()) {
            out.ids.push(TokenId(id));
            return;
        }
        self.merge(word, out);
        out.ids.extend(out.symbols.iter().map(|&id| TokenId(id)));
    }

    /// Leaves the tokens of `word` that the merges end in in `out.symbols`.
    pub(super) fn merge(&self, word: &str, out: &mut Output) {
        out.symbols.clear();
        let (n_dropped, n_unknown) = (out.n_dropped, out.n_unknown);
        match self.spec.alphabet {
            Alphabet::Bytes => self.bytes_to_symbols(word.as_bytes(), out),
            Alphabet::Chars => self.chars_to_symbols(word, out),
        }
        if out.n_dropped > n_dropped && out.first_dropped.is_none() {
            out.first_dropped = word.chars().find(|&c| !self.has_tokens(c));
        }
        if out.n_unknown > n_unknown && out.first_unknown.is_none() {
            out.first_unknown = word.chars().find(|&c| !self.has_tokens(c));
        }
        self.merges.apply(&mut out.symbols, &mut out.scratch);
    }

    /// Whether the merges of `bytes` end in `id` alone. Bytes that are no text are looked at only
    /// where the alphabet is bytes.
    pub(super) fn is_whole(&self, id: u32, bytes: &[u8], out: &mut Output) -> bool {
        match (self.spec.alphabet, std::str::from_utf8(bytes)) {
            (Alphabet::Chars, Ok(text)) => self.merge(text, out),
            (Alphabet::Chars, Err(_)) => return false,
            (Alphabet::Bytes, _) => {
                out.symbols.clear();
                self.bytes_to_symbols(bytes, out);
                self.merges.apply(&mut out.symbols, &mut out.scratch);
            }
        }
        out.symbols == [id]
    }

    fn bytes_to_symbols(&self, bytes: &[u8], out: &mut Output) {
        let mut unknown = false;
        for &byte in bytes {
            let id = self.byte_ids[usize::from(byte)];
            if id == NO_TOKEN {
                self.push_unknown(&mut unknown, out);
            } else {
                self.flush_unknown(&mut unknown, out);
                out.symbols.push(id);
            }
        }
        self.flush_unknown(&mut unknown, out);
    }

    /// Whether a character can be spelled.
    fn has_tokens(&self, c: char) -> bool {
        let mut utf8 = [0; 4];
        let utf8 = c.encode_utf8(&mut utf8).as_bytes();
        let bytes = utf8
            .iter()
            .all(|&byte| self.byte_ids[usize::from(byte)] != NO_TOKEN);
        match self.spec.alphabet {
            Alphabet::Bytes => bytes,
            Alphabet::Chars => self.vocab.find(utf8).is_some() || self.spec.byte_fallback && bytes,
        }
    }

    fn chars_to_symbols(&self, word: &str, out: &mut Output) {
        let mut unknown = false;
        for c in word.chars() {
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            let known = match utf8 {
                [ascii] => Some(self.ascii_ids[usize::from(*ascii)]).filter(|&id| id != NO_TOKEN),
                _ => self.vocab.find(utf8),
            };
            if let Some(id) = known {
                self.flush_unknown(&mut unknown, out);
                out.symbols.push(id);
                continue;
            }
            let byte_id = |&byte: &u8| self.byte_ids[usize::from(byte)];
            if self.spec.byte_fallback && utf8.iter().all(|byte| byte_id(byte) != NO_TOKEN) {
                // An unknown token that waits goes behind these bytes, as it does in Hugging
                // Face's tokenizers: it matters only where some bytes have a token and some not.
                out.symbols.extend(utf8.iter().map(byte_id));
            } else {
                self.push_unknown(&mut unknown, out);
            }
        }
        self.flush_unknown(&mut unknown, out);
    }

    /// Something has no token: the unknown token waits, for more of it may be fused into one.
    fn push_unknown(&self, unknown: &mut bool, out: &mut Output) {
        match self.spec.unk {
            None => out.n_dropped += 1,
            Some(unk) => {
                out.n_unknown += 1;
                if *unknown && !self.spec.fuse_unk {
                    out.symbols.push(unk);
                }
                *unknown = true;
            }
        }
    }

    fn flush_unknown(&self, unknown: &mut bool, out: &mut Output) {
        if let (true, Some(unk)) = (*unknown, self.spec.unk) {
            out.symbols.push(unk);
        }
        *unknown = false;
    }
}

/// The ranges inside of `part`, from its start on.
fn within(ranges: &[Range<usize>], part: &Range<usize>) -> Vec<Range<usize>> {
    let inside = |range: &Range<usize>| {
        let start = range.start.max(part.start) - part.start;
        let end = range.end.min(part.end).saturating_sub(part.start);
        (start < end).then_some(start..end)
    };
    ranges.iter().filter_map(inside).collect()
}

/// Whether words can be merged apart: no merge joins something that ends in another character and
/// something that begins with a visible space, and no character between two spaces vanishes.
pub(super) fn words_are_apart(
    spec: &Spec,
    vocab: &Vocab,
    merges: &Merges,
    byte_ids: &[u32; 256],
) -> bool {
    let mut utf8 = [0; 4];
    let space = META_SPACE.encode_utf8(&mut utf8).as_bytes();
    let joins_words = |left: u32, right: u32| {
        let bytes = |id| vocab.get(id).unwrap_or_default();
        let left_ends_in_space = bytes(left).ends_with(space) && spec.unk != Some(left);
        bytes(right).starts_with(space) && !left_ends_in_space
    };
    let nothing_vanishes =
        spec.unk.is_some() || spec.byte_fallback && !byte_ids.contains(&NO_TOKEN);
    nothing_vanishes
        && vocab.find(space).is_some()
        && !merges
            .rules()
            .iter()
            .any(|&[left, right, _]| joins_words(left, right))
}
