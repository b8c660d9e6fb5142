//! What a conversion is going to do, told before it does it.

use std::collections::BTreeMap;

use chaski_models::{
    chat::{ChatTemplate, SpecialTokens},
    config::Config,
    tensors::Role,
};
use chaski_quant::{
    QuantType, TensorLayout,
    container::{DATA_ALIGN, DataPlan, TensorDecl, TensorKind},
};
use serde::{Serialize, Serializer};

use crate::{
    error::ConvertError,
    mapping::{self, Mapping},
    note::Note,
    options::ConvertOptions,
    pipeline::schedule::{Shape, Work},
    recipe::{Recipe, TypeOverride},
    source::{Source, SourceError},
};

/// The version of the JSON forms of [`ConvertPlan`] and [`Report`](crate::Report).
pub const JSON_SCHEMA: u32 = 1;

/// The most bytes of 16 rows as floats. Llama 3.1 405B's widest rows take 3.4 MB.
const MAX_TILE_BYTES: u64 = 64 << 20;

/// Weights of a layer from which on every file has its layers begin at multiples of 64 KiB.
const ALIGNED_LAYER: usize = 8 << 20;

/// What a conversion is going to do: the answer to `--dry-run`.
#[derive(Clone, Debug, Serialize)]
pub struct ConvertPlan {
    /// [`JSON_SCHEMA`].
    pub schema: u32,
    /// Where the weights come from.
    pub source: SourceInfo,
    /// What the model is.
    pub config: Config,
    /// Which role gets which type.
    pub recipe: RecipeUse,
    /// The tensors in file order.
    pub tensors: Vec<PlannedTensor>,
    /// Weights of all tensors.
    pub n_weights: u64,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of the file's tensors, exactly, padding between them included.
    pub data_bytes: u64,
    /// Bytes of the whole file but for tokenizer and metadata, exactly. The tokenizer adds about
    /// twice its compressed size, the metadata some kilobytes.
    pub file_bytes: u64,
    /// Stored bits of one weight: 8 times the bytes of all tensors, scales and rows that fill up
    /// tiles included, the padding between tensors not, by `n_weights`.
    pub bits_per_weight: f64,
    /// What was decided.
    pub notes: Vec<Note>,
    #[serde(skip)]
    pub(crate) inner: Inner,
}

/// What the pipeline needs of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub(crate) data: DataPlan,
    pub(crate) work: Vec<Work>,
}

/// Where the weights come from.
#[derive(Clone, Debug, Serialize)]
pub struct SourceInfo {
    /// `safetensors` or `gguf`.
    pub kind: &'static str,
    /// The files by name, without directories.
    pub files: Vec<FileInfo>,
}

/// A file of the source.
#[derive(Clone, Debug, Serialize)]
pub struct FileInfo {
    /// Its name, without directories.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// The recipe that is followed.
#[derive(Clone, Debug, Serialize)]
pub struct RecipeUse {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// What was changed of it.
    pub overrides: Vec<TypeOverride>,
    /// What the types were chosen for, where they were chosen for this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How it was known what errors of each matrix matter, where the types were chosen for this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivities: Option<String>,
    /// The types of the roles that the model has; of a role whose layers differ, the most frequent
    /// one.
    #[serde(serialize_with = "names_of_types")]
    pub types: BTreeMap<Role, QuantType>,
}

/// A tensor of the file to be.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its name in the source.
    pub source_name: String,
    /// What it is for.
    pub role: Role,
    /// `[rows, cols]`, or `[len]` of a vector.
    pub shape: Vec<usize>,
    /// The source's element type.
    pub source_type: String,
    /// The file's element type.
    #[serde(serialize_with = "name_of_type")]
    pub qtype: QuantType,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Position in the file.
    pub offset: u64,
    /// Index among the source's tensors.
    #[serde(skip)]
    pub(crate) source: usize,
}

impl PlannedTensor {
    /// Its number of weights.
    pub fn n_weights(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }
}

pub(crate) fn name_of_type<S: Serializer>(qtype: &QuantType, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(qtype.name())
}

fn names_of_types<S: Serializer>(
    types: &BTreeMap<Role, QuantType>,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_map(types.iter().map(|(role, qtype)| (role, qtype.name())))
}

/// Plans a conversion: finds every tensor, gives it a type and a place.
///
/// Reads no weights, unless the source has an output matrix that its config ties to the embeddings:
/// then both are compared.
///
/// # Errors
///
/// Tensors that are missing, unknown or of another shape; a missing tokenizer, unless allowed.
pub fn plan(source: &dyn Source, options: &ConvertOptions) -> Result<ConvertPlan, ConvertError> {
    let Mapping {
        config,
        tensors: mapped,
        mut notes,
    } = mapping::map(source)?;
    notes.extend(
        source
            .notes()
            .iter()
            .map(|text| Note::Source { text: text.clone() }),
    );
    match source.tokenizer() {
        Ok(_) => {}
        Err(cause @ SourceError::NoTokenizer { .. }) => {
            if !options.allow_missing_tokenizer {
                return Err(ConvertError::NoTokenizer(cause));
            }
            notes.push(Note::NoTokenizer);
        }
        Err(cause) => return Err(cause.into()),
    }
    match source.chat_template() {
        None => notes.push(Note::NoChatTemplate),
        // A checkpoint is worth having without: what is wrong is told here and not when somebody
        // wants to chat.
        Some(template) => {
            if let Err(err) = ChatTemplate::new(template, SpecialTokens::default()) {
                let why = err.to_string();
                notes.push(Note::BrokenChatTemplate { why });
            }
        }
    }

    let (mut tensors, mut decls, mut work) = (Vec::new(), Vec::new(), Vec::new());
    let mut types = BTreeMap::new();
    // Half of an alignment is lost at each layer: of a small model more than a byte in a hundred,
    // which a recipe for a number of bytes has a better use for.
    let in_layers = mapped.iter().filter(|m| m.spec.layer.is_some());
    let weights: usize = in_layers.map(|m| m.spec.rows * m.spec.cols).sum();
    let aligned =
        options.recipe.target().is_none() || weights / config.n_layers.max(1) >= ALIGNED_LAYER;
    for mapping::Mapped {
        spec,
        source: index,
    } in mapped
    {
        let from = &source.tensors()[index];
        let qtype = options.recipe.qtype_of(spec.role, spec.layer);
        let tile_bytes = 64 * from.cols as u64;
        if tile_bytes > MAX_TILE_BYTES {
            let tensor = from.name.clone();
            return Err(ConvertError::RowsTooLong {
                tensor,
                bytes: tile_bytes,
                max: MAX_TILE_BYTES,
            });
        }
        let paired = spec.role.is_interleaved();
        let (kind, shape) = if spec.vector {
            let len = spec.cols;
            (TensorKind::Vector { len }, Shape::Vector { len })
        } else {
            types.insert(spec.role, options.recipe.qtype(spec.role));
            let layout: TensorLayout =
                spec.layout(qtype).map_err(|cause| ConvertError::Layout {
                    tensor: spec.name.clone(),
                    cause,
                })?;
            (TensorKind::Matrix(layout), Shape::Matrix { layout, paired })
        };
        decls.push(TensorDecl {
            name: spec.name.clone(),
            kind,
            section_start: spec.role.starts_section() && aligned,
            interleaved: paired,
        });
        work.push(Work {
            row_bytes: (from.bytes / from.rows.max(1) as u64) as usize,
            order: source.row_order(index),
            shape,
        });
        tensors.push(PlannedTensor {
            name: spec.name,
            source_name: from.name.clone(),
            role: spec.role,
            shape: mapping::shape(spec.vector, spec.rows, spec.cols),
            source_type: from.dtype.clone(),
            qtype,
            source_bytes: from.bytes,
            bytes: kind.bytes() as u64,
            offset: 0,
            source: index,
        });
    }
    for asked in options.recipe.overrides() {
        if !tensors.iter().any(|tensor| tensor.role == asked.role) {
            let asked = asked.to_string();
            notes.push(Note::OverrideUnused { asked });
        }
    }
    let data = DataPlan::new(decls)?;
    for (i, tensor) in tensors.iter_mut().enumerate() {
        tensor.offset = DATA_ALIGN + data.offset(i);
    }
    let n_weights = tensors.iter().map(PlannedTensor::n_weights).sum();
    let tensor_bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
    let recipe: &Recipe = &options.recipe;
    let file_info = |f: &crate::source::SourceFile| FileInfo {
        name: f
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        bytes: f.len,
    };
    Ok(ConvertPlan {
        schema: JSON_SCHEMA,
        source: SourceInfo {
            kind: source.kind(),
            files: source.files().iter().map(file_info).collect(),
        },
        config,
        recipe: RecipeUse {
            name: recipe.name(),
            version: recipe.version(),
            overrides: recipe.overrides().to_vec(),
            target: recipe.target().map(str::to_owned),
            sensitivities: recipe.sensitivities().map(str::to_owned),
            types,
        },
        n_weights,
        source_bytes: tensors.iter().map(|t| t.source_bytes).sum(),
        data_bytes: data.data_len(),
        file_bytes: data.file_len(&[], 0),
        bits_per_weight: 8.0 * tensor_bytes as f64 / n_weights as f64,
        tensors,
        notes,
        inner: Inner { data, work },
    })
}
