//! Which tensor of the source is which tensor of the model.
//!
//! Every tensor of the source is used, known to be implied by the config, or an error that names
//! it; every tensor of the model is found or named. All that is wrong is told at once.

use std::{collections::HashMap, error::Error, fmt};

use chaski_models::{
    config::Config,
    tensors::{Role, TensorSpec, tensor_table},
};

use crate::{
    note::Note,
    source::{Naming, Source, SourceError, SourceTensor},
};

/// The tensors of the model in file order, each with its source.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The source's config; ties of the embeddings as found.
    pub config: Config,
    /// The tensors in file order.
    pub tensors: Vec<Mapped>,
    /// What was decided.
    pub notes: Vec<Note>,
}

/// A tensor of the model and where it comes from.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// What the model wants.
    pub spec: TensorSpec,
    /// Its index in [`Source::tensors`].
    pub source: usize,
}

/// A tensor whose shape is not the one that the config asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The source's name.
    pub tensor: String,
    /// What the config asks for: `[rows, cols]`, or `[len]` of a vector.
    pub expected: Vec<usize>,
    /// What the source has.
    pub got: Vec<usize>,
}

/// Why source and model do not fit.
#[derive(Debug)]
#[non_exhaustive]
pub enum MappingError {
    /// Tensors that are missing, unknown or of another shape; at least one of the lists is not
    /// empty.
    Tensors {
        /// Names, as the source would spell them, that the model needs and the source lacks.
        missing: Vec<String>,
        /// Names of the source that no part of the model asks for.
        unknown: Vec<String>,
        /// Shapes that disagree.
        shapes: Vec<ShapeMismatch>,
        /// The config does not tie the output matrix to the embeddings, and it is missing.
        untied_output_missing: bool,
    },
    /// The source has a name twice.
    Duplicate {
        /// The name.
        tensor: String,
    },
    /// Tensors could not be compared.
    Read(SourceError),
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensors {
                missing,
                unknown,
                shapes,
                untied_output_missing,
            } => {
                f.write_str("the tensors do not fit the config")?;
                let quoted = |t: &String| format!("`{}`", t.escape_debug());
                list(f, "missing", missing, quoted)?;
                if *untied_output_missing {
                    f.write_str(" (the config does not tie the output matrix to the embeddings)")?;
                }
                list(f, "unknown", unknown, quoted)?;
                list(f, "of another shape", shapes, |s| {
                    let ShapeMismatch {
                        tensor,
                        expected,
                        got,
                    } = s;
                    format!(
                        "`{}` is {got:?}, expected {expected:?}",
                        tensor.escape_debug()
                    )
                })
            }
            Self::Duplicate { tensor } => {
                write!(f, "the source has tensor `{}` twice", tensor.escape_debug())
            }
            Self::Read(_) => f.write_str("could not compare the output matrix with the embeddings"),
        }
    }
}

/// `; 3 missing: a, b, c`, cut after some.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    items: &[T],
    text: impl Fn(&T) -> String,
) -> fmt::Result {
    const SHOWN: usize = 16;
    if items.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = items.iter().take(SHOWN).map(text).collect();
    write!(f, "; {} {what}: {}", items.len(), shown.join(", "))?;
    match items.len().checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => write!(f, " and {more} more"),
    }
}

impl Error for MappingError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(cause) => Some(cause),
            _ => None,
        }
    }
}

/// Finds every tensor of the model in `source`.
pub fn map(source: &dyn Source) -> Result<Mapping, MappingError> {
    let mut by_name = HashMap::new();
    for (index, tensor) in source.tensors().iter().enumerate() {
        if by_name.insert(&*tensor.name, index).is_some() {
            return Err(MappingError::Duplicate {
                tensor: tensor.name.clone(),
            });
        }
    }
    let mut config = source.config().clone();
    let mut notes = Vec::new();
    if config.tied_embeddings
        && let Some(copy) = resolve_tie(source, &mut config, &by_name, &mut notes)?
    {
        by_name.remove(&*source.tensors()[copy].name);
    }

    let (mut tensors, mut missing, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
    let mut untied_output_missing = false;
    for spec in tensor_table(&config) {
        let name = source_name(source.naming(), &spec);
        let Some(index) = by_name.remove(name) else {
            untied_output_missing |= spec.role == Role::Output;
            missing.push(name.to_owned());
            continue;
        };
        let tensor = &source.tensors()[index];
        if (tensor.vector, tensor.rows, tensor.cols) == (spec.vector, spec.rows, spec.cols) {
            tensors.push(Mapped {
                spec,
                source: index,
            });
        } else {
            shapes.push(ShapeMismatch {
                tensor: tensor.name.clone(),
                expected: shape(spec.vector, spec.rows, spec.cols),
                got: shape(tensor.vector, tensor.rows, tensor.cols),
            });
        }
    }
    let (mut implied, mut unknown) = (Vec::new(), Vec::new());
    for SourceTensor { name, .. } in source.tensors() {
        if by_name.contains_key(&**name) {
            let list = if is_implied(source.naming(), name) {
                &mut implied
            } else {
                &mut unknown
            };
            list.push(name.clone());
        }
    }
    if !(missing.is_empty() && unknown.is_empty() && shapes.is_empty()) {
        return Err(MappingError::Tensors {
            missing,
            unknown,
            shapes,
            untied_output_missing,
        });
    }
    if !implied.is_empty() {
        notes.push(Note::NotStored { tensors: implied });
    }
    Ok(Mapping {
        config,
        tensors,
        notes,
    })
}

/// What the source calls the tensor `spec`.
fn source_name(naming: Naming, spec: &TensorSpec) -> &str {
    match naming {
        Naming::HuggingFace => &spec.hf_name,
        Naming::Gguf => &spec.gguf_name,
    }
}

pub(crate) fn shape(vector: bool, rows: usize, cols: usize) -> Vec<usize> {
    if vector { vec![cols] } else { vec![rows, cols] }
}

/// Tensors that hold what the config says already: RoPE's frequencies.
fn is_implied(naming: Naming, name: &str) -> bool {
    match naming {
        // A buffer that transformers once saved with the weights.
        Naming::HuggingFace => name.ends_with(".rotary_emb.inv_freq"),
        // Read by the source into `Config::rope_scaling`.
        Naming::Gguf => name == "rope_freqs.weight",
    }
}

/// The source has an output matrix although the config ties it to the embeddings: a copy is dropped
/// (its index is returned), another matrix unties the config.
fn resolve_tie(
    source: &dyn Source,
    config: &mut Config,
    by_name: &HashMap<&str, usize>,
    notes: &mut Vec<Note>,
) -> Result<Option<usize>, MappingError> {
    let untied = tensor_table(&Config {
        tied_embeddings: false,
        ..config.clone()
    });
    let find = |role| {
        let spec = untied.iter().find(|spec| spec.role == role)?;
        by_name.get(source_name(source.naming(), spec)).copied()
    };
    let (Some(embedding), Some(output)) = (find(Role::TokenEmbd), find(Role::Output)) else {
        return Ok(None);
    };
    let tensor = source.tensors()[output].name.clone();
    if equal(source, embedding, output).map_err(MappingError::Read)? {
        notes.push(Note::TiedCopyDropped { tensor });
        return Ok(Some(output));
    }
    notes.push(Note::Untied { tensor });
    config.tied_embeddings = false;
    Ok(None)
}

/// Whether two tensors have the same shape and values.
fn equal(source: &dyn Source, a: usize, b: usize) -> Result<bool, SourceError> {
    const CHUNK_BYTES: u64 = 4 << 20;
    let (x, y) = (&source.tensors()[a], &source.tensors()[b]);
    if (x.rows, x.cols, x.vector) != (y.rows, y.cols, y.vector) {
        return Ok(false);
    }
    let row_bytes = (x.bytes.max(y.bytes) / x.rows.max(1) as u64).max(4 * x.cols as u64);
    let step = (CHUNK_BYTES / row_bytes.max(1)).max(1) as usize;
    let same_bytes = x.dtype == y.dtype && source.row_order(a) == source.row_order(b);
    let (mut raw, mut rows) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for start in (0..x.rows).step_by(step) {
        let range = start..(start + step).min(x.rows);
        for (i, tensor) in [a, b].into_iter().enumerate() {
            raw[i].clear();
            source.read_raw(tensor, range.clone(), &mut raw[i])?;
        }
        if same_bytes {
            if raw[0] != raw[1] {
                return Ok(false);
            }
            continue;
        }
        for (i, tensor) in [a, b].into_iter().enumerate() {
            rows[i].resize(range.len() * x.cols, 0f32);
            source.decode(tensor, start, &raw[i], &mut rows[i])?;
        }
        if rows[0]
            .iter()
            .map(|v| v.to_bits())
            .ne(rows[1].iter().map(|v| v.to_bits()))
        {
            return Ok(false);
        }
    }
    Ok(true)
}
