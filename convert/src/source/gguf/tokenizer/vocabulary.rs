//! The tokens of a GGUF file and what kinds they are of.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use crate::source::gguf::{
    error::GgufError,
    generation::{TOKEN_TYPE, TOKENS},
    metadata::{Metadata, Texts},
};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    /// What stands for a text that cannot be spelled.
    Unknown,
    /// `<s>`, `<|im_end|>`: never part of a user's text.
    Control,
    /// Found in a text before anything else happens to it.
    UserDefined,
    /// A row of the embeddings that stands for nothing.
    Unused,
    /// `<0x0A>`
    Byte,
}

impl TokenKind {
    fn from_id(id: i64) -> Option<Self> {
        Some(match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether Hugging Face's tokenizers keep it among the added tokens.
    const fn is_added(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// The tokens, each of them once.
pub(super) struct Vocabulary<'a> {
    tokens: &'a Texts,
    kinds: Vec<TokenKind>,
    ids: HashMap<&'a str, u32>,
    /// Tokens from here on are no part of the merging model's vocabulary.
    model_len: usize,
}

impl<'a> Vocabulary<'a> {
    /// Reads the tokens of a model with `vocab_size` rows of embeddings.
    pub(super) fn read(metadata: &'a Metadata, vocab_size: usize) -> Result<Self, GgufError> {
        let missing = |key: &str, expected| GgufError::MissingKey {
            key: key.to_owned(),
            expected,
        };
        let tokens = metadata.texts(TOKENS)?;
        let tokens = tokens.ok_or_else(|| missing(TOKENS, "an array of texts"))?;
        if tokens.len() != vocab_size {
            let expected = format_args!("{vocab_size}, one for each row of token_embd.weight");
            let got = format_args!("an array of {}", tokens.len());
            return Err(GgufError::value(TOKENS, expected, got));
        }
        let expected = "a token type from 1 to 6 for each token";
        let kinds = metadata.numbers(TOKEN_TYPE, expected, |v| TokenKind::from_id(v.as_i64()?))?;
        let kinds = kinds.ok_or_else(|| missing(TOKEN_TYPE, expected))?;
        if kinds.len() != tokens.len() {
            let got = format_args!("an array of {} for {} tokens", kinds.len(), tokens.len());
            return Err(GgufError::value(TOKEN_TYPE, expected, got));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if kinds[id] == TokenKind::Unused {
                continue;
            }
            if token.is_empty() {
                let (token, problem) = (String::new(), "is empty and not marked as unused");
                return Err(GgufError::Token {
                    key: TOKENS,
                    id,
                    token,
                    problem,
                });
            }
            // `vocab_size` rows were counted in 32 bits less than a file has.
            if let Some(first) = ids.insert(token, id as u32) {
                let (token, ids) = (token.to_owned(), [first as usize, id]);
                return Err(GgufError::DuplicateToken { token, ids });
            }
        }
        let model_len = model_len(&kinds);
        Ok(Self {
            tokens,
            kinds,
            ids,
            model_len,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The text of token `id`, which is one.
    pub(super) fn text(&self, id: u32) -> &'a str {
        self.tokens.get(id as usize)
    }

    /// Tokens that text can be merged to, with their ids and kinds: those that are in use and not added.
    pub(super) fn mergeable(&self) -> impl Iterator<Item = (u32, &'a str, TokenKind)> {
        let all = self.kinds.iter().zip(0u32..);
        all.filter(|(kind, _)| !kind.is_added() && **kind != TokenKind::Unused)
            .map(|(kind, id)| (id, self.text(id), *kind))
    }

    /// The id of the token `text`, if it is in use.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds[id as usize]
    }

    /// `model.vocab`
    pub(super) fn vocab(&self) -> Vocab<'_> {
        Vocab(self)
    }

    /// `added_tokens`, those of `named` included whatever their kind.
    pub(super) fn added_tokens(&self, named: [Option<u32>; 4]) -> AddedTokens<'_> {
        AddedTokens {
            vocabulary: self,
            named,
        }
    }
}

/// The merging model's tokens with their ids, as JSON.
pub(super) struct Vocab<'a>(&'a Vocabulary<'a>);

impl Serialize for Vocab<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let used = (0..self.0.model_len as u32).filter(|&id| self.0.kind(id) != TokenKind::Unused);
        serializer.collect_map(used.map(|id| (self.0.text(id), id)))
    }
}

/// The added tokens as JSON.
pub(super) struct AddedTokens<'a> {
    vocabulary: &'a Vocabulary<'a>,
    named: [Option<u32>; 4],
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl Serialize for AddedTokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { vocabulary, named } = self;
        let is_named = |id| named.contains(&Some(id));
        let added = (0..vocabulary.len() as u32)
            .filter(|&id| vocabulary.kind(id).is_added() || is_named(id))
            .map(|id| AddedToken {
                id,
                content: vocabulary.text(id),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: vocabulary.kind(id) != TokenKind::UserDefined || is_named(id),
            });
        serializer.collect_seq(added)
    }
}

/// How many tokens belong to the merging model: all before the added tokens at the end.
///
/// Hugging Face's tokenizers give an added token that the model does not have the next free id, so such tokens
/// have to follow the model's without a gap; where they do not, all tokens are the model's, which is the same to a
/// text. Unused tokens at the very end are nobody's.
fn model_len(kinds: &[TokenKind]) -> usize {
    let used = kinds.len()
        - kinds
            .iter()
            .rev()
            .take_while(|&&k| k == TokenKind::Unused)
            .count();
    let added = kinds[..used]
        .iter()
        .rev()
        .take_while(|k| k.is_added())
        .count();
    let model = &kinds[..used - added];
    if model.contains(&TokenKind::Unused) {
        used
    } else {
        model.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{TokenKind::*, *};

    #[test]
    fn added_tokens_at_the_end_are_not_the_models() {
        let cases: [(&[TokenKind], usize); 6] = [
            (&[], 0),
            (&[Control, Normal, Normal], 3),
            (&[Normal, Normal, Control, UserDefined], 2),
            (&[Normal, Normal, Control, Unused, Unused], 2),
            (&[Normal, Unused, Control], 3),
            (&[Normal, Control, Unused, Control, Unused], 4),
        ];
        for (kinds, want) in cases {
            assert_eq!(model_len(kinds), want, "{kinds:?}");
        }
    }
}
