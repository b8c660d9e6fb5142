//! What the JSON section of a container holds.

use std::{collections::BTreeMap, error::Error, fmt};

use chaski_quant::QuantType;
use serde::{Deserialize, Serialize};

use crate::{Config, ConfigError, TokenId, tensors::Role};

/// The version of [`ModelMetadata`] that this code writes and reads.
pub const METADATA_VERSION: u32 = 1;
/// Longest metadata document, in bytes.
pub const MAX_METADATA_BYTES: usize = 64 << 20;
/// Longest chat template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Most entries of a list or a map.
pub const MAX_ENTRIES: usize = 1 << 16;

/// Everything about a model that is not a tensor and not the tokenizer's vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelMetadata {
    /// [`METADATA_VERSION`].
    pub version: u32,
    /// The hyperparameters.
    pub config: Config,
    /// The chat template's source, if the model came with one.
    pub chat_template: Option<String>,
    /// The source's defaults for generation.
    pub generation: GenerationDefaults,
    /// The special tokens.
    pub tokenizer: SpecialIds,
    /// Where the file came from.
    pub provenance: Provenance,
    /// Which type each role has.
    pub recipe: RecipeInfo,
    /// How far the stored weights are from the source's.
    pub report: BTreeMap<Role, RoleError>,
    /// Documents that later versions of the converter add: a certificate, a self-test.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, serde_json::Value>,
}

/// `generation_config.json`, as far as it is of use; `None`: not given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationDefaults {
    /// Whether to sample at all; `Some(false)`: the most likely token.
    pub do_sample: Option<bool>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<TokenId>,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Tokens kept by top-k.
    pub top_k: Option<u32>,
    /// Probability kept by top-p.
    pub top_p: Option<f32>,
    /// Least probability, relative to the largest, kept by min-p.
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that were seen.
    pub repetition_penalty: Option<f32>,
}

/// Special tokens as the source's tokenizer names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpecialIds {
    /// Begins a text.
    pub bos: Option<TokenId>,
    /// Ends a text.
    pub eos: Option<TokenId>,
    /// Ends a turn, where it is not `eos`.
    pub eot: Option<TokenId>,
    /// Fills up batches.
    pub pad: Option<TokenId>,
    /// Stands for what the vocabulary cannot spell.
    pub unk: Option<TokenId>,
    /// Whether a text is to begin with `bos`.
    pub add_bos: bool,
}

/// Where a file came from and how it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name and version of the program that made it.
    pub converter: String,
    /// The name of the source: a directory, a file, a catalogue entry.
    pub source: String,
    /// Every file that was read, by name.
    pub files: Vec<SourceFile>,
    /// What the conversion was told, option by option.
    pub options: BTreeMap<String, String>,
    /// What the conversion had to say: defaults that stood in, fields without effect.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A file that a conversion read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name, without directories.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, 64 hexadecimal digits; model hubs show the same.
    pub sha256: String,
}

/// The recipe that was followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeInfo {
    /// Its name, as a user types it: `q4`.
    pub name: String,
    /// Its version: the same name and version stand for the same types.
    pub version: u32,
    /// The type of each role's matrices.
    #[serde(with = "quant_types")]
    pub types: BTreeMap<Role, QuantType>,
}

/// How far the stored weights of one role are from the source's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleError {
    /// Number of weights.
    pub n: u64,
    /// Bytes that they take in the file.
    pub bytes: u64,
    /// Sum of the squares of the source's weights.
    pub sum_sq: f64,
    /// Sum of the squares of the differences.
    pub err_sq: f64,
    /// Largest difference.
    pub max_abs_err: f32,
}

impl RoleError {
    /// Normalised mean square error: `err_sq / sum_sq`; 0 where both are.
    pub fn nmse(&self) -> f64 {
        if self.err_sq == 0.0 {
            0.0
        } else {
            self.err_sq / self.sum_sq
        }
    }

    /// Signal to error ratio in dB: `-10 log10(nmse)`; infinite where nothing was lost.
    pub fn sqnr_db(&self) -> f64 {
        -10.0 * libm::log10(self.nmse())
    }
}

/// Quant types by their names.
mod quant_types {
    use std::collections::BTreeMap;

    use chaski_quant::QuantType;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::tensors::Role;

    pub(super) fn serialize<S: Serializer>(
        types: &BTreeMap<Role, QuantType>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let names: BTreeMap<_, _> = types.iter().map(|(r, t)| (r, t.name())).collect();
        names.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Role, QuantType>, D::Error> {
        let names = BTreeMap::<Role, String>::deserialize(deserializer)?;
        names
            .into_iter()
            .map(|(r, t)| Ok((r, t.parse().map_err(de::Error::custom)?)))
            .collect()
    }
}

/// Why a metadata document was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum MetadataError {
    /// It is too long.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is read.
        max: usize,
    },
    /// It is of another version.
    Version {
        /// Its version.
        got: u64,
    },
    /// It is no JSON, or not of our form.
    Json(serde_json::Error),
    /// Its config is refused.
    Config(ConfigError),
    /// A field leaves its range.
    Field {
        /// The field.
        field: String,
        /// What should stand there.
        expected: String,
        /// What does.
        got: String,
    },
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => {
                write!(f, "metadata of {len} bytes: at most {max} are read")
            }
            Self::Version { got } => write!(
                f,
                "metadata field `version`: expected {METADATA_VERSION}, got {got}; convert the model \
                 again with this version"
            ),
            Self::Json(_) => f.write_str("metadata is not of the expected form"),
            Self::Config(_) => f.write_str("metadata field `config` is refused"),
            Self::Field {
                field,
                expected,
                got,
            } => {
                write!(
                    f,
                    "metadata field `{field}`: expected {expected}, got {got}"
                )
            }
        }
    }
}

impl Error for MetadataError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(cause) => Some(cause),
            Self::Config(cause) => Some(cause),
            _ => None,
        }
    }
}

impl ModelMetadata {
    /// Reads and checks a document.
    ///
    /// # Errors
    ///
    /// A document that is too long, of another version, of another form, or with a field out of its
    /// range; the error, or its source, names the field.
    pub fn from_json(json: &str) -> Result<Self, MetadataError> {
        /// Read first, so that a newer file is told from a broken one.
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u64,
        }
        if json.len() > MAX_METADATA_BYTES {
            return Err(MetadataError::TooLong {
                len: json.len(),
                max: MAX_METADATA_BYTES,
            });
        }
        let VersionOnly { version } = serde_json::from_str(json).map_err(MetadataError::Json)?;
        if version != u64::from(METADATA_VERSION) {
            return Err(MetadataError::Version { got: version });
        }
        let metadata: Self = serde_json::from_str(json).map_err(MetadataError::Json)?;
        metadata.validate()?;
        Ok(metadata)
    }

    /// Writes the document; [`Self::from_json`] reads it back as it was.
    ///
    /// # Errors
    ///
    /// What [`Self::from_json`] would refuse, and numbers that are not finite.
    pub fn to_json(&self) -> Result<String, MetadataError> {
        self.validate()?;
        serde_json::to_string_pretty(self).map_err(MetadataError::Json)
    }

    /// The tokens that end an answer: those of the generation defaults, of the config and the
    /// tokenizer's, each once, in this order.
    pub fn end_ids(&self) -> Vec<TokenId> {
        let mut ids = Vec::new();
        let generation = self.generation.eos_token_ids.iter();
        let config = self.config.eos_token_ids.iter();
        for id in generation
            .chain(config)
            .chain(&self.tokenizer.eos)
            .chain(&self.tokenizer.eot)
        {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
        ids
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// As [`Self::from_json`].
    pub fn validate(&self) -> Result<(), MetadataError> {
        self.config.validate().map_err(MetadataError::Config)?;
        let at_most = |field: &str, len: usize, max: usize| {
            if len <= max {
                return Ok(());
            }
            Err(field_error(field, format_args!("at most {max}"), len))
        };
        let template = self.chat_template.as_ref().map_or(0, String::len);
        at_most("chat_template", template, MAX_TEMPLATE_BYTES)?;
        at_most("provenance.files", self.provenance.files.len(), MAX_ENTRIES)?;
        at_most(
            "provenance.options",
            self.provenance.options.len(),
            MAX_ENTRIES,
        )?;
        at_most("provenance.notes", self.provenance.notes.len(), MAX_ENTRIES)?;
        at_most(
            "generation.eos_token_ids",
            self.generation.eos_token_ids.len(),
            MAX_ENTRIES,
        )?;
        for file in &self.provenance.files {
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if file.sha256.len() != 64 || !file.sha256.bytes().all(hex) {
                let got: String = file.sha256.chars().take(80).collect();
                let got = format_args!("\"{}\"", got.escape_debug());
                return Err(field_error(
                    "provenance.files.sha256",
                    "64 hexadecimal digits",
                    got,
                ));
            }
        }
        self.validate_ids()?;
        self.validate_numbers()
    }

    fn validate_ids(&self) -> Result<(), MetadataError> {
        let special = &self.tokenizer;
        let named = [
            ("tokenizer.bos", special.bos),
            ("tokenizer.eos", special.eos),
            ("tokenizer.eot", special.eot),
            ("tokenizer.pad", special.pad),
            ("tokenizer.unk", special.unk),
        ];
        let named = named
            .into_iter()
            .filter_map(|(field, id)| Some((field, id?)));
        let eos = self
            .generation
            .eos_token_ids
            .iter()
            .map(|&id| ("generation.eos_token_ids", id));
        for (field, id) in named.chain(eos) {
            if id.index() >= self.config.vocab_size {
                let expected = format_args!("an id below {}", self.config.vocab_size);
                return Err(field_error(field, expected, id));
            }
        }
        Ok(())
    }

    fn validate_numbers(&self) -> Result<(), MetadataError> {
        let g = &self.generation;
        if g.repetition_penalty == Some(0.0) {
            let field = "generation.repetition_penalty";
            return Err(field_error(field, "a number above 0", 0));
        }
        // What a sampler takes; see its options.
        for (field, value, max) in [
            ("generation.temperature", g.temperature, 1e4),
            ("generation.top_p", g.top_p, 1.0),
            ("generation.min_p", g.min_p, 1.0),
            ("generation.repetition_penalty", g.repetition_penalty, 1e4),
        ] {
            if let Some(value) = value
                && !(value >= 0.0 && value <= max)
            {
                return Err(field_error(
                    field,
                    format_args!("a number in 0..={max}"),
                    value,
                ));
            }
        }
        for (role, error) in &self.report {
            let numbers = [error.sum_sq, error.err_sq, f64::from(error.max_abs_err)];
            if let Some(bad) = numbers.into_iter().find(|v| !(*v >= 0.0 && v.is_finite())) {
                return Err(field_error(
                    &format!("report.{role}"),
                    "finite numbers from 0",
                    bad,
                ));
            }
        }
        Ok(())
    }
}

fn field_error(field: &str, expected: impl fmt::Display, got: impl fmt::Display) -> MetadataError {
    MetadataError::Field {
        field: field.to_owned(),
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Variant;

    fn metadata() -> ModelMetadata {
        let error = RoleError {
            n: 10,
            bytes: 40,
            sum_sq: 2.5,
            err_sq: 0.1,
            max_abs_err: 0.3,
        };
        ModelMetadata {
            version: METADATA_VERSION,
            config: Variant::Llama3Scaled.config(),
            chat_template: Some("{{ bos_token }}".to_owned()),
            generation: GenerationDefaults {
                eos_token_ids: vec![TokenId(313), TokenId(315)],
                temperature: Some(0.7),
                top_k: Some(20),
                ..GenerationDefaults::default()
            },
            tokenizer: SpecialIds {
                bos: Some(TokenId(312)),
                eos: Some(TokenId(313)),
                add_bos: true,
                ..SpecialIds::default()
            },
            provenance: Provenance {
                converter: "chaski 0.1.0".to_owned(),
                source: "tiny".to_owned(),
                files: vec![SourceFile {
                    name: "model.safetensors".to_owned(),
                    bytes: 1000,
                    sha256: "0123456789abcdef".repeat(4),
                }],
                options: BTreeMap::from([("quant".to_owned(), "q4".to_owned())]),
                notes: vec!["config field `x` is not known".to_owned()],
            },
            recipe: RecipeInfo {
                name: "q4".to_owned(),
                version: 1,
                types: BTreeMap::from([(Role::AttnQ, QuantType::Q4), (Role::AttnV, QuantType::Q6)]),
            },
            report: BTreeMap::from([(Role::AttnQ, error), (Role::AttnV, error)]),
            extensions: BTreeMap::new(),
        }
    }

    #[test]
    fn a_document_survives_its_json() {
        let want = metadata();
        let json = want.to_json().unwrap();
        assert!(json.contains("\"attn_v\": \"q6\""), "{json}");
        let got = ModelMetadata::from_json(&json).unwrap();
        assert_eq!(got, want);
        assert_eq!(got.to_json().unwrap(), json);
        assert_eq!(got.end_ids(), [313, 315, 314].map(TokenId));
        let nmse = want.report[&Role::AttnQ].nmse();
        assert!((nmse - 0.04).abs() < 1e-9);
        assert!((want.report[&Role::AttnQ].sqnr_db() - 13.979_4).abs() < 1e-4);
        assert_eq!(RoleError::default().nmse(), 0.0);
    }

    /// The error and all its causes.
    fn refusal(json: &Value) -> String {
        let error = ModelMetadata::from_json(&json.to_string()).unwrap_err();
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        format!("{error}: {cause}")
    }

    #[test]
    fn hostile_documents_are_refused_by_name() {
        let good: Value = serde_json::from_str(&metadata().to_json().unwrap()).unwrap();
        let cases = [
            ("/version", json!(2), "`version`"),
            ("/version", json!(-1), "form"),
            ("/config/dim", json!(0), "`dim`"),
            ("/config/n_layers", json!(u64::MAX), "`n_layers`"),
            ("/config/arch", json!("gpt2"), "gpt2"),
            ("/config/dim", json!("64"), "form"),
            (
                "/generation/temperature",
                json!(-1),
                "`generation.temperature`",
            ),
            (
                "/generation/eos_token_ids/0",
                json!(320),
                "`generation.eos_token_ids`",
            ),
            ("/tokenizer/bos", json!(320), "`tokenizer.bos`"),
            (
                "/provenance/files/0/sha256",
                json!("xyz"),
                "`provenance.files.sha256`",
            ),
            ("/recipe/types", json!({"attn_q": "q2"}), "`q2`"),
            ("/recipe/types", json!({"attn_x": "q4"}), "`attn_x`"),
            ("/report/attn_q/err_sq", json!(-1), "`report.attn_q`"),
            ("/report/attn_q/err_sq", json!(null), "form"),
            (
                "/chat_template",
                json!("x".repeat(MAX_TEMPLATE_BYTES + 1)),
                "`chat_template`",
            ),
        ];
        for (pointer, value, want) in cases {
            let mut json = good.clone();
            *json.pointer_mut(pointer).unwrap() = value;
            let got = refusal(&json);
            assert!(got.contains(want), "{pointer}: {got}");
        }
        for pointer in [
            "",
            "/config",
            "/generation",
            "/tokenizer",
            "/provenance",
            "/recipe",
        ] {
            let mut json = good.clone();
            json.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
            assert!(refusal(&json).contains("`surprise`"), "{pointer}");
        }
        for text in [
            "",
            "{",
            "[]",
            "null",
            "{\"version\": 1}",
            "{\"version\": 1e999}",
        ] {
            assert!(ModelMetadata::from_json(text).is_err(), "{text}");
        }
        let long = " ".repeat(MAX_METADATA_BYTES + 1);
        let error = ModelMetadata::from_json(&long).unwrap_err();
        assert!(matches!(error, MetadataError::TooLong { .. }));
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
        let mut m = metadata();
        m.generation.top_p = Some(f32::NAN);
        assert!(
            m.to_json()
                .unwrap_err()
                .to_string()
                .contains("`generation.top_p`")
        );
    }
}
