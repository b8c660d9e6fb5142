//! What the file holds beside tensors: tokenizer and metadata.

use std::collections::BTreeMap;

use chaski_models::{
    TokenId,
    metadata::{
        GenerationDefaults, METADATA_VERSION, ModelMetadata, Provenance, RecipeInfo, SourceFile,
        SpecialIds,
    },
    tokenizer::{Tokenizer, compress_canonical},
};
use chaski_quant::container::{Section, SectionKind};
use serde_json::Value;

use crate::{
    error::ConvertError,
    note::Note,
    options::ConvertOptions,
    plan::ConvertPlan,
    source::{Generation, Source, SourceError},
};

/// Name and version of this program, for the record.
const CONVERTER: &str = concat!("chaski ", env!("CARGO_PKG_VERSION"));

/// The extension of the metadata that holds `tokenizer_config.json`, its chat template aside: with
/// the canonical tokenizer it is all that the fast form can be made from again.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config";

/// Texts that end a turn in the chat formats of the supported families.
const TURN_ENDS: [&str; 5] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|end|>",
];

/// The tokenizer in its two forms.
pub(crate) struct TokenizerForms {
    canonical: Vec<u8>,
    fast: Vec<u8>,
    special: SpecialIds,
    config: Option<Value>,
    vocab_size: usize,
}

impl TokenizerForms {
    /// Reads the source's tokenizer; `None` where it has none, which the plan has checked to be
    /// allowed.
    pub(crate) fn read(source: &dyn Source) -> Result<Option<Self>, ConvertError> {
        let files = match source.tokenizer() {
            Ok(files) => files,
            Err(SourceError::NoTokenizer { .. }) => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        let tokenizer = Tokenizer::from_hf(&files.tokenizer_json, files.tokenizer_config.as_ref())
            .map_err(ConvertError::Tokenizer)?;
        let eos = tokenizer.eos();
        let eot = source.chat_template().and_then(|template| {
            let used = TURN_ENDS.into_iter().filter(|text| template.contains(text));
            used.filter_map(|text| tokenizer.special_id(text))
                .find(|&id| Some(id) != eos)
        });
        let mut config = files.tokenizer_config;
        if let Some(Value::Object(config)) = &mut config {
            config.remove("chat_template");
        }
        Ok(Some(Self {
            canonical: compress_canonical(&files.tokenizer_json),
            fast: tokenizer.to_fast(),
            special: SpecialIds {
                bos: tokenizer.bos().or(tokenizer.bos_token()),
                eos,
                eot,
                pad: tokenizer.pad(),
                unk: tokenizer.unk(),
                add_bos: tokenizer.bos().is_some(),
            },
            config,
            vocab_size: tokenizer.vocab_size(),
        }))
    }

    /// The sections of the file.
    pub(crate) fn sections(&self) -> [Section<'_>; 2] {
        [
            Section {
                kind: SectionKind::Tokenizer,
                bytes: &self.canonical,
            },
            Section {
                kind: SectionKind::TokenizerFast,
                bytes: &self.fast,
            },
        ]
    }

    /// Bytes that its settings take in the metadata.
    pub(crate) fn config_len(&self) -> usize {
        self.config.as_ref().map_or(0, |c| c.to_string().len())
    }

    /// What to tell of a tokenizer for a model of `vocab_size` tokens.
    pub(crate) fn note(&self, vocab_size: usize) -> Option<Note> {
        (self.vocab_size > vocab_size).then_some(Note::TokensWithoutEmbedding {
            tokens: self.vocab_size,
            vocab_size,
        })
    }
}

/// The metadata, as far as it is known before the tensors are converted: all but digests and
/// errors.
///
/// # Errors
///
/// What would be refused when the file is opened: found here, before the work is done.
pub(crate) fn metadata(
    source: &dyn Source,
    plan: &ConvertPlan,
    options: &ConvertOptions,
    tokenizer: Option<&TokenizerForms>,
    notes: &[Note],
) -> Result<ModelMetadata, ConvertError> {
    let g: &Generation = source.generation();
    let vocab_size = plan.config.vocab_size;
    // Tokens that only fill batches may be beyond the model's vocabulary; nothing that is computed
    // uses them.
    let embedded = |id: Option<TokenId>| id.filter(|id| id.index() < vocab_size);
    let mut special = tokenizer.map_or_else(
        || SpecialIds {
            bos: g.bos.map(TokenId),
            ..SpecialIds::default()
        },
        |t| t.special.clone(),
    );
    (special.pad, special.unk) = (embedded(special.pad), embedded(special.unk));
    let mut told = BTreeMap::from([("quant".to_owned(), plan.recipe.name.to_owned())]);
    if let Some(target) = &plan.recipe.target {
        told.insert("target".to_owned(), target.clone());
    }
    if let Some(sensitivities) = &plan.recipe.sensitivities {
        told.insert("sensitivities".to_owned(), sensitivities.clone());
    }
    if !plan.recipe.overrides.is_empty() {
        let types: Vec<_> = plan
            .recipe
            .overrides
            .iter()
            .map(ToString::to_string)
            .collect();
        told.insert("tensor-type".to_owned(), types.join(","));
    }
    if let Some(calibration) = &options.calibration {
        told.insert("calibrate".to_owned(), calibration.record());
    }
    if options.allow_missing_tokenizer && tokenizer.is_none() {
        told.insert("no-tokenizer".to_owned(), "true".to_owned());
    }
    let files = plan.source.files.iter().map(|f| SourceFile {
        name: f.name.clone(),
        bytes: f.bytes,
        sha256: "0".repeat(64),
    });
    let config = tokenizer.and_then(|t| t.config.clone());
    let metadata = ModelMetadata {
        version: METADATA_VERSION,
        config: plan.config.clone(),
        chat_template: source.chat_template().map(str::to_owned),
        generation: GenerationDefaults {
            do_sample: g.do_sample,
            eos_token_ids: g.eos.iter().copied().map(TokenId).collect(),
            temperature: g.temperature,
            top_k: g.top_k,
            top_p: g.top_p,
            min_p: g.min_p,
            repetition_penalty: g.repetition_penalty,
        },
        tokenizer: special,
        provenance: Provenance {
            converter: CONVERTER.to_owned(),
            source: options
                .source_name
                .clone()
                .unwrap_or_else(|| plan.source.kind.to_owned()),
            files: files.collect(),
            options: told,
            notes: notes.iter().map(ToString::to_string).collect(),
        },
        recipe: RecipeInfo {
            name: plan.recipe.name.to_owned(),
            version: plan.recipe.version,
            types: plan.recipe.types.clone(),
        },
        report: BTreeMap::new(),
        extensions: config
            .map(|c| (TOKENIZER_CONFIG.to_owned(), c))
            .into_iter()
            .collect(),
    };
    metadata.validate()?;
    Ok(metadata)
}
