//! What can be wrong with a checkpoint directory.

use std::{error::Error, fmt, path::PathBuf};

use super::header::HeaderError;

/// What is wrong with a checkpoint directory.
#[derive(Debug)]
#[non_exhaustive]
pub enum HfError {
    /// A file that every checkpoint has is missing.
    MissingFile {
        /// The directory.
        dir: PathBuf,
        /// The file's name.
        name: &'static str,
    },
    /// The directory has neither `model.safetensors` nor `model.safetensors.index.json`.
    NoWeights {
        /// The directory.
        dir: PathBuf,
        /// Another file with weights that is there but is not read.
        instead: Option<String>,
    },
    /// Both `model.safetensors` and an index of other files are there.
    TwoCheckpoints {
        /// The directory.
        dir: PathBuf,
    },
    /// A file is no JSON, or not of the expected form.
    Json {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        cause: serde_json::Error,
    },
    /// A field of a JSON file has another type or range than expected.
    Field {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is, as JSON.
        got: String,
    },
    /// A file that should be text is not UTF-8.
    NotText {
        /// Which file.
        path: PathBuf,
    },
    /// The header of a safetensors file is at fault.
    Header {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: HeaderError,
    },
    /// The index names a file that is not one of the directory's own.
    IndexLeavesDirectory {
        /// The index.
        path: PathBuf,
        /// The file it names.
        file: String,
    },
    /// The index places a tensor in a file that does not have it.
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// A file has a tensor that the index does not place there.
    NotInIndex {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// A tensor has an element type that cannot be converted.
    DType {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
        /// Its element type.
        dtype: String,
    },
    /// A tensor is neither a vector nor a matrix.
    Rank {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
        /// Its dimensions.
        shape: Vec<u64>,
    },
}

impl fmt::Display for HfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingFile { dir, name } => {
                write!(
                    f,
                    "{} has no {name}: it is no checkpoint directory",
                    dir.display()
                )
            }
            Self::NoWeights { dir, instead } => {
                write!(
                    f,
                    "{} has neither model.safetensors nor model.safetensors.index.json",
                    dir.display()
                )?;
                match instead {
                    Some(name) => write!(f, "; its {name} is not read, only safetensors files are"),
                    None => Ok(()),
                }
            }
            Self::TwoCheckpoints { dir } => write!(
                f,
                "{} has model.safetensors and a model.safetensors.index.json that names other files: \
                 remove one of them",
                dir.display()
            ),
            Self::Json { path, .. } => write!(f, "could not read {} as JSON", path.display()),
            Self::Field {
                path,
                field,
                expected,
                got,
            } => {
                write!(
                    f,
                    "`{field}` in {} is {got}, expected {expected}",
                    path.display()
                )
            }
            Self::NotText { path } => write!(f, "{} is not UTF-8", path.display()),
            Self::Header { path, .. } => {
                write!(f, "{} is no valid safetensors file", path.display())
            }
            Self::IndexLeavesDirectory { path, file } => write!(
                f,
                "{} names the file \"{}\": only plain names of files in the same directory are followed",
                path.display(),
                file.escape_debug()
            ),
            Self::NotInShard { tensor, file } => write!(
                f,
                "model.safetensors.index.json places tensor `{}` in {file}, which does not have it",
                tensor.escape_debug()
            ),
            Self::NotInIndex { tensor, file } => write!(
                f,
                "{file} has tensor `{}`, which model.safetensors.index.json does not place there",
                tensor.escape_debug()
            ),
            Self::DType {
                tensor,
                file,
                dtype,
            } => write!(
                f,
                "tensor `{}` in {file} has element type {dtype}: BF16, F16 and F32 can be converted, \
                 checkpoints that are quantised already cannot",
                tensor.escape_debug()
            ),
            Self::Rank {
                tensor,
                file,
                shape,
            } => write!(
                f,
                "tensor `{}` in {file} has shape {shape:?}: only vectors and matrices can be converted",
                tensor.escape_debug()
            ),
        }
    }
}

impl Error for HfError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json { cause, .. } => Some(cause),
            Self::Header { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
