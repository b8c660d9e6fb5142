//! What a walk over a source's layers begins and ends with.

use std::ops::Range;

use chaski_models::{TokenId, tensors::Role, tokenizer::Tokenizer};

use super::CalibrationError;
use crate::{error::ConvertError, mapping::Mapped, source::Source};

/// The source's tokenizer.
pub(crate) fn tokenizer(source: &dyn Source) -> Result<Tokenizer, ConvertError> {
    let files = source.tokenizer();
    let files = files.map_err(|_| CalibrationError::NoTokenizer)?;
    Tokenizer::from_hf(&files.tokenizer_json, files.tokenizer_config.as_ref())
        .map_err(ConvertError::Tokenizer)
}

/// Rows of a tensor of the source, as they are stored.
fn rows(source: &dyn Source, index: usize, rows: Range<usize>) -> Result<Vec<f32>, ConvertError> {
    let mut raw = Vec::new();
    let mut out = vec![0.0; rows.len() * source.tensors()[index].cols];
    source.read_raw(index, rows, &mut raw)?;
    source.decode(index, &raw, &mut out)?;
    Ok(out)
}

/// The index in the source of the one tensor of a role; the mapping has all of a model.
fn index(mapped: &[Mapped], role: Role) -> usize {
    let found = mapped.iter().find(|m| m.spec.role == role);
    found.map_or(0, |m| m.source)
}

/// The last norm, `[dim]`.
pub(crate) fn output_norm(
    source: &dyn Source,
    mapped: &[Mapped],
) -> Result<Vec<f32>, ConvertError> {
    rows(source, index(mapped, Role::OutputNorm), 0..1)
}

/// The embeddings of tokens, `[tokens, dim]`.
///
/// # Errors
///
/// One has none; the source cannot be read.
pub(crate) fn embed(
    source: &dyn Source,
    mapped: &[Mapped],
    tokens: &[TokenId],
) -> Result<Vec<f32>, ConvertError> {
    let config = source.config();
    let index = index(mapped, Role::TokenEmbd);
    let mut hidden = Vec::with_capacity(tokens.len() * config.dim);
    for &token in tokens {
        if token.index() >= config.vocab_size {
            return Err(CalibrationError::NoEmbedding { token }.into());
        }
        hidden.extend(rows(source, index, token.index()..token.index() + 1)?);
    }
    Ok(hidden)
}
