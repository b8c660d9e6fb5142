//! Finding added tokens in a text, before anything else happens to it.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use fancy_regex::Regex;

use super::{
    error::TokenizerError, normalize::Normalizers, spec::AddedToken, vocab::MAX_TOKEN_BYTES,
};

/// Where in a text special tokens are parsed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parsed<'r> {
    Everywhere,
    /// All but these ranges, which are in order: a token that reaches into one is none.
    Outside(&'r [Range<usize>]),
}

impl Parsed<'_> {
    /// No special token in a text of `len` bytes.
    pub(super) fn nowhere(len: &Range<usize>) -> Parsed<'_> {
        Parsed::Outside(std::slice::from_ref(len))
    }

    /// The stretches of a text of `len` bytes, and whether special tokens are parsed there.
    fn stretches(self, len: usize) -> Vec<(Range<usize>, bool)> {
        let Self::Outside(ranges) = self else {
            return vec![(0..len, true)];
        };
        let mut stretches = Vec::with_capacity(2 * ranges.len() + 1);
        let mut done = 0;
        for range in ranges {
            let start = range.start.clamp(done, len);
            let end = range.end.clamp(start, len);
            if start < end {
                stretches.push((done..start, true));
                stretches.push((start..end, false));
                done = end;
            }
        }
        stretches.push((done..len, true));
        stretches
    }
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An added token.
    Token(u32),
    /// Text, as a range of bytes.
    Text(Range<usize>),
}

/// Searches a text for all added tokens at once.
///
/// Tokens that are `normalized` are searched for, in their own normalised form, in the normalised
/// text; the others before that in the text as given. Where several could begin, the longest is
/// meant; a token found is passed over as a whole even if its conditions do not hold.
#[derive(Debug)]
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    raw: Option<Search>,
    normalized: Option<Search>,
}

#[derive(Debug)]
struct Search {
    automaton: AhoCorasick,
    /// Index into the tokens, by pattern.
    tokens: Vec<usize>,
    /// `\w`, if some token must be a word by itself.
    word: Option<Regex>,
}

impl AddedTokens {
    pub(super) fn new(
        tokens: Vec<AddedToken>,
        normalizers: &Normalizers,
    ) -> Result<Self, TokenizerError> {
        let mut raw = Vec::new();
        let mut normalized = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            if token.normalized {
                normalized.push((
                    i,
                    normalizers
                        .apply(&token.content, MAX_TOKEN_BYTES)?
                        .into_owned(),
                ));
            } else {
                raw.push((i, token.content.clone()));
            }
        }
        let (raw, normalized) = (
            Search::new(raw, &tokens)?,
            Search::new(normalized, &tokens)?,
        );
        Ok(Self {
            tokens,
            raw,
            normalized,
        })
    }

    pub(super) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    pub(super) fn get(&self, id: u32) -> Option<&AddedToken> {
        self.tokens
            .binary_search_by_key(&id, |token| token.id)
            .ok()
            .map(|i| &self.tokens[i])
    }

    /// Whether a special token is searched for in the normalised text.
    pub(super) fn has_normalized_specials(&self) -> bool {
        let mut tokens = self.tokens.iter();
        tokens.any(|token| token.special && token.normalized)
    }

    /// The parts of a text as given.
    pub(super) fn split_raw(&self, text: &str, parsed: Parsed<'_>) -> Vec<Part> {
        self.split(self.raw.as_ref(), text, parsed)
    }

    /// The parts of a text that was normalised.
    pub(super) fn split_normalized(&self, text: &str, parsed: Parsed<'_>) -> Vec<Part> {
        self.split(self.normalized.as_ref(), text, parsed)
    }

    /// Each stretch is searched by itself, so that nothing in one can hide or make a token of
    /// another; what is no token goes on from one to the next.
    fn split(&self, search: Option<&Search>, text: &str, parsed: Parsed<'_>) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut done = 0;
        let Some(search) = search else {
            return if text.is_empty() {
                parts
            } else {
                vec![Part::Text(0..text.len())]
            };
        };
        for (stretch, with_specials) in parsed.stretches(text.len()) {
            for found in search.automaton.find_iter(Input::new(text).span(stretch)) {
                let token = &self.tokens[search.tokens[found.pattern().as_usize()]];
                let (mut start, mut end) = (found.start(), found.end());
                if token.special && !with_specials
                    || token.single_word && !search.stands_alone(text, start, end)
                {
                    continue;
                }
                if token.lstrip {
                    start = text[..start].trim_end().len().max(done);
                }
                if token.rstrip {
                    end = text.len() - text[end..].trim_start().len();
                }
                if done < start {
                    parts.push(Part::Text(done..start));
                }
                parts.push(Part::Token(token.id));
                done = end.max(done);
            }
        }
        if done != text.len() {
            parts.push(Part::Text(done..text.len()));
        }
        parts
    }
}

impl Search {
    fn new(
        patterns: Vec<(usize, String)>,
        tokens: &[AddedToken],
    ) -> Result<Option<Self>, TokenizerError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns.iter().map(|(_, content)| content))
            .map_err(|cause| TokenizerError::Added(Box::new(cause)))?;
        let word = if patterns.iter().any(|&(i, _)| tokens[i].single_word) {
            let word = Regex::new(r"\w").map_err(|cause| TokenizerError::Pattern {
                path: "added_tokens".to_owned(),
                cause: Box::new(cause),
            })?;
            Some(word)
        } else {
            None
        };
        let tokens = patterns.iter().map(|&(i, _)| i).collect();
        Ok(Some(Self {
            automaton,
            tokens,
            word,
        }))
    }

    /// Whether neither neighbour of `start..end` is part of a word.
    fn stands_alone(&self, text: &str, start: usize, end: usize) -> bool {
        let is_word = |c: Option<char>| {
            c.is_some_and(|c| {
                let word = self.word.as_ref();
                word.is_some_and(|word| word.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false))
            })
        };
        !is_word(text[..start].chars().next_back()) && !is_word(text[end..].chars().next())
    }
}
