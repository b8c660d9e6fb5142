//! What running a source over a text takes of it: token ids, embeddings, single rows.

use std::ops::Range;

use chaski_models::{Config, TokenId, forward::Site, tensors::Role, tokenizer::Tokenizer};

use crate::{
    calibrate::{Calibration, CalibrationError},
    error::ConvertError,
    mapping::Mapped,
    source::{Source, SourceError},
};

/// The tokenizer of a source whose texts are to be read.
pub(crate) fn tokenizer(source: &dyn Source) -> Result<Tokenizer, ConvertError> {
    let files = source.tokenizer().map_err(|e| match e {
        SourceError::NoTokenizer { .. } => CalibrationError::NoTokenizer.into(),
        broken => ConvertError::from(broken),
    })?;
    Tokenizer::from_hf(&files.tokenizer_json, files.tokenizer_config.as_ref())
        .map_err(ConvertError::Tokenizer)
}

/// The chunks of a text.
pub(crate) fn texts(
    source: &dyn Source,
    calibration: &Calibration,
) -> Result<Vec<Vec<TokenId>>, ConvertError> {
    let context = source.config().max_seq_len;
    Ok(calibration.chunks(&tokenizer(source)?, context)?)
}

/// The source's tensor that is the model's only one of `role`, which the mapping made sure is there.
pub(crate) fn tensor(mapped: &[Mapped], role: Role) -> usize {
    let found = mapped.iter().find(|m| m.spec.role == role);
    found.map_or(0, |m| m.source)
}

/// Rows of tensor `tensor` of the source, as they are stored.
pub(crate) fn rows(
    source: &dyn Source,
    tensor: usize,
    rows: Range<usize>,
) -> Result<Vec<f32>, ConvertError> {
    let mut raw = Vec::new();
    let mut out = vec![0.0; rows.len() * source.tensors()[tensor].cols];
    source.read_raw(tensor, rows.clone(), &mut raw)?;
    source.decode(tensor, rows.start, &raw, &mut out)?;
    Ok(out)
}

/// Refuses hidden states that are not finite, which enter `site`.
pub(crate) fn check_states(
    states: &[f32],
    site: impl FnOnce() -> String,
) -> Result<(), ConvertError> {
    match states.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(CalibrationError::NotFinite { site: site() }.into()),
    }
}

/// What is seen at a site of a layer enters.
pub(crate) fn place(site: Site, layer: usize) -> String {
    match site {
        Site::Head => "the head".to_owned(),
        site => format!("{site} of layer {layer}"),
    }
}

/// What hidden states behind a layer enter.
pub(crate) fn behind(layer: usize, config: &Config) -> String {
    match layer + 1 {
        next if next == config.n_layers => "the head".to_owned(),
        next => format!("layer {next}"),
    }
}

/// The embeddings of tokens, `[tokens, dim]`.
pub(crate) fn embeddings(
    source: &dyn Source,
    mapped: &[Mapped],
    config: &Config,
    tokens: &[TokenId],
) -> Result<Vec<f32>, ConvertError> {
    let embeddings = tensor(mapped, Role::TokenEmbd);
    let mut hidden = Vec::with_capacity(tokens.len() * config.dim);
    for &token in tokens {
        if token.index() >= config.vocab_size {
            return Err(CalibrationError::NoEmbedding { token }.into());
        }
        hidden.extend(rows(source, embeddings, token.index()..token.index() + 1)?);
    }
    check_states(&hidden, || "layer 0, the embeddings".to_owned())?;
    Ok(hidden)
}
