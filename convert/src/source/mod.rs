//! Where weights come from: one trait, a Hugging Face directory or a GGUF file behind it.
//!
//! A source is opened once and checked whole: after [`open`] every tensor lies inside its file, has
//! a supported element type and a rank of one or two. Rows are then read by position, from any
//! thread.

use std::{
    fs,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use chaski_models::config::Config;
use serde_json::Value;

pub use error::SourceError;
pub use read_at::ReadAt;

mod error;

pub mod gguf;
pub mod hf;
mod read_at;

use read_at::open_regular;

/// Whose names a source's tensors carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// `blk.0.attn_q.weight`.
    Gguf,
}

/// In which order the rows of a tensor lie in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As the model wants them: rotary pairs are `i` and `i + head_dim / 2` of a head.
    AsStored,
    /// Within each head of `head_dim` rows, rotary pairs are neighbours: stored row `2 i + j` of a
    /// head is the model's row `i + j * head_dim / 2`. Llama's Q and K in GGUF.
    InterleavedRotary {
        /// Rows of one head, an even number.
        head_dim: usize,
    },
}

/// A tensor as the source has it.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceTensor {
    /// The source's own name for it.
    pub name: String,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features, or the length of a vector.
    pub cols: usize,
    /// Whether the source stores it with one dimension.
    pub vector: bool,
    /// The source's name for the element type: `BF16`, `Q4_K`, ...
    pub dtype: String,
    /// Bytes of all rows.
    pub bytes: u64,
    /// Stored bits of one weight.
    pub bits_per_weight: f64,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

/// The tokenizer in Hugging Face's form.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`, completed by `special_tokens_map.json`.
    pub tokenizer_config: Option<Value>,
}

/// What the source says about generating text; what it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Whether to sample at all; `Some(false)`: the most probable token.
    pub do_sample: Option<bool>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// The token before a text.
    pub bos: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Number of most probable tokens to sample from.
    pub top_k: Option<u32>,
    /// Probability mass to sample from.
    pub top_p: Option<f32>,
    /// Smallest probability, as a share of the largest.
    pub min_p: Option<f32>,
    /// Factor that makes repeated tokens less probable.
    pub repetition_penalty: Option<f32>,
}

/// Whether a path is a file that a source was read from, or that belongs to it: its configuration, its
/// tokenizer. Such a file is not to be written.
pub fn is_part_of(source: &dyn Source, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let extension = path.extension().and_then(|e| e.to_str());
    let belongs = matches!(
        extension,
        Some("json" | "safetensors" | "model" | "jinja" | "txt")
    );
    source.files().iter().any(|file| {
        let Ok(own) = file.path.canonicalize() else {
            return false;
        };
        own == path || (belongs && source.kind() == "safetensors" && own.parent() == path.parent())
    })
}

/// A checkpoint that can be read row by row.
pub trait Source: Send + Sync {
    /// `safetensors` or `gguf`.
    fn kind(&self) -> &'static str;

    /// Whose names [`Source::tensors`] carry.
    fn naming(&self) -> Naming;

    /// What the model is.
    fn config(&self) -> &Config;

    /// Every tensor, in file order.
    fn tensors(&self) -> &[SourceTensor];

    /// Appends the raw bytes of rows `rows` of tensor `tensor` (an index into [`Source::tensors`];
    /// a vector is one row) to `out`, by reads at a position: any number of threads may call it.
    fn read_raw(
        &self,
        tensor: usize,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError>;

    /// Decodes `raw`, the bytes of whole rows of tensor `tensor` from row `first` on, to
    /// `[rows, cols]` in `out`. A pure function.
    fn decode(
        &self,
        tensor: usize,
        first: usize,
        raw: &[u8],
        out: &mut [f32],
    ) -> Result<(), SourceError>;

    /// The tokenizer; [`SourceError::NoTokenizer`] where the source has none.
    fn tokenizer(&self) -> Result<TokenizerFiles, SourceError>;

    /// The template that renders a chat, where the source has one.
    fn chat_template(&self) -> Option<&str>;

    /// What the source says about generating text.
    fn generation(&self) -> &Generation;

    /// Every file that is read: those that hold the tensors, in order, then the others.
    fn files(&self) -> &[SourceFile];

    /// What a user should hear of, a sentence each: fields of the config that are not known,
    /// defaults that stand in.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// In which order the rows of tensor `tensor` lie.
    fn row_order(&self, tensor: usize) -> RowOrder;

    /// Whether its channels are balanced: its weights are then the files' times powers of two, which
    /// their own type does not hold in any case.
    fn is_balanced(&self) -> bool {
        false
    }
}

impl std::fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("kind", &self.kind())
            .field("files", &self.files())
            .finish()
    }
}

/// Opens a checkpoint directory or a GGUF file; which of them it is, its content decides.
pub fn open(path: &Path) -> Result<Box<dyn Source>, SourceError> {
    let open_error = |cause| SourceError::Open {
        path: path.to_owned(),
        cause,
    };
    if fs::metadata(path).map_err(open_error)?.is_dir() {
        return Ok(Box::new(hf::HfDirectory::open(path)?));
    }
    let mut magic = Vec::with_capacity(8);
    open_regular(path)
        .and_then(|f| f.take(8).read_to_end(&mut magic))
        .map_err(open_error)?;
    if magic.starts_with(b"GGUF") {
        return Ok(Box::new(gguf::GgufFile::open(path)?));
    }
    Err(SourceError::NotACheckpoint {
        path: path.to_owned(),
        starts_with: magic,
    })
}

/// The whole of a small file, refused beyond `max` bytes; `None` where there is no such file.
pub(crate) fn read_small(path: &Path, max: u64) -> Result<Option<Vec<u8>>, SourceError> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            return Err(SourceError::Open {
                path: path.to_owned(),
                cause,
            });
        }
    };
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| SourceError::Read {
            path: path.to_owned(),
            cause,
        })?;
    if bytes.len() as u64 > max {
        return Err(SourceError::TooLarge {
            path: path.to_owned(),
            max,
        });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_checkpoint_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = |path: &Path| open(path).unwrap_err().to_string();

        let file = dir.path().join("model.bin");
        fs::write(&file, b"PK\x03\x04 a pickle").unwrap();
        assert!(text(&file).contains("model.bin"), "{}", text(&file));
        assert!(text(&file).contains("GGUF"), "{}", text(&file));

        fs::write(&file, b"").unwrap();
        assert!(text(&file).contains("empty"), "{}", text(&file));

        let missing = dir.path().join("missing");
        assert!(text(&missing).contains("missing"), "{}", text(&missing));
        assert!(
            text(dir.path()).contains("config.json"),
            "{}",
            text(dir.path())
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_or_a_device_is_refused_unopened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        let device = PathBuf::from("/dev/zero");
        let mut paths = vec![device];
        if made.is_ok_and(|made| made.success()) {
            paths.push(pipe);
        }
        for path in paths {
            for error in [
                open(&path).unwrap_err(),
                read_small(&path, 9).unwrap_err(),
                ReadAt::open(&path).unwrap_err(),
            ] {
                let SourceError::Open { cause, .. } = error else {
                    panic!("{error}");
                };
                assert!(cause.to_string().contains("no regular file"), "{cause}");
            }
        }
    }

    #[test]
    fn a_file_beyond_its_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        fs::write(&file, b"0123456789").unwrap();
        assert_eq!(read_small(&file, 10).unwrap().unwrap(), b"0123456789");
        assert!(matches!(
            read_small(&file, 9),
            Err(SourceError::TooLarge { max: 9, .. })
        ));
        assert!(read_small(&dir.path().join("none"), 9).unwrap().is_none());
    }
}
