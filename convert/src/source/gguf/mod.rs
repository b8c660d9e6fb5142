//! A GGUF file, version 2 or 3, little-endian.

use std::{ops::Range, path::Path};

use chaski_models::config::Config;

use super::{
    Generation, Naming, ReadAt, RowOrder, Source, SourceError, SourceFile, SourceTensor,
    TokenizerFiles,
};
use config::{GgufConfig, Refused};
use header::HeaderTensor;
use metadata::Metadata;

pub use error::GgufError;

mod config;
mod cursor;
mod error;
mod generation;
mod header;
mod metadata;
mod rope;
mod tokenizer;

const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// An open GGUF file. Its header is in memory, its tensors are read where they are asked for.
#[derive(Debug)]
pub struct GgufFile {
    file: ReadAt,
    files: [SourceFile; 1],
    metadata: Metadata,
    config: Config,
    notes: Vec<String>,
    generation: Generation,
    chat_template: Option<String>,
    tensors: Vec<SourceTensor>,
    /// Where each of `tensors` lies.
    places: Vec<HeaderTensor>,
    /// Rows of Q and K are in the order of [`RowOrder::InterleavedRotary`].
    interleaved: bool,
}

impl GgufFile {
    /// Opens the file at `path` and checks everything but the tensors' values and the tokenizer.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::read(ReadAt::open(path)?)
    }

    /// Checks `bytes` as if they were a file at `path`, where nothing needs to be. Such a source can be read but not
    /// converted: a conversion takes the digest of the file at that path.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, SourceError> {
        Self::read(ReadAt::from_bytes(path, bytes))
    }

    fn read(file: ReadAt) -> Result<Self, SourceError> {
        let path = file.path().to_owned();
        let error = |cause| SourceError::Gguf {
            path: path.clone(),
            cause,
        };
        let (metadata, places) = header::read(&file)?;
        let rope_factors = rope::read(&file, &places)?;
        let mut notes = Vec::new();
        // Where there are none, reading the config says so.
        let n_tokens = places
            .iter()
            .find(|t| t.name == "token_embd.weight")
            .map_or(usize::MAX, |t| t.rows);
        let generation = generation::read(&metadata, n_tokens, &mut notes).map_err(error)?;
        let (bos, eos) = (generation.bos, &generation.eos);
        let read = config::read(&metadata, &places, rope_factors.as_deref(), bos, eos);
        let GgufConfig {
            config,
            arch,
            notes: more,
        } = read.map_err(|refused| match refused {
            Refused::Gguf(cause) => error(cause),
            Refused::Config(cause) => SourceError::Config {
                path: path.clone(),
                cause,
            },
        })?;
        notes.extend(more);
        let chat_template = metadata
            .text(CHAT_TEMPLATE)
            .map_err(error)?
            .map(str::to_owned);
        let tensors = places.iter().map(|t| SourceTensor {
            name: t.name.clone(),
            rows: t.rows,
            cols: t.cols,
            vector: t.vector,
            dtype: t.dtype.name().to_owned(),
            bytes: t.bytes,
            bits_per_weight: t.dtype.bits_per_weight(),
        });
        Ok(Self {
            files: [SourceFile {
                path,
                len: file.len(),
            }],
            tensors: tensors.collect(),
            file,
            metadata,
            config,
            notes,
            generation,
            chat_template,
            places,
            interleaved: arch == "llama",
        })
    }
}

impl Source for GgufFile {
    fn kind(&self) -> &'static str {
        "gguf"
    }

    fn naming(&self) -> Naming {
        Naming::Gguf
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    fn read_raw(
        &self,
        tensor: usize,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let HeaderTensor {
            rows: all,
            bytes,
            offset,
            ..
        } = self.places[tensor];
        assert!(
            rows.start <= rows.end && rows.end <= all,
            "rows {rows:?} of {all}"
        );
        // No row is empty and all of them lie in the file, so this neither divides by 0 nor overflows.
        let row_bytes = bytes / all as u64;
        let start = offset + rows.start as u64 * row_bytes;
        self.file
            .append(start, rows.len() * row_bytes as usize, out)
    }

    fn decode(
        &self,
        tensor: usize,
        _first: usize,
        raw: &[u8],
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        let HeaderTensor {
            cols,
            dtype,
            ref name,
            ..
        } = self.places[tensor];
        if !out.len().is_multiple_of(cols) || dtype.row_bytes(out.len()) != Some(raw.len()) {
            return Err(SourceError::NotWholeRows {
                tensor: name.clone(),
                raw_bytes: raw.len(),
                floats: out.len(),
            });
        }
        dtype.dequantize(raw, out);
        Ok(())
    }

    fn tokenizer(&self) -> Result<TokenizerFiles, SourceError> {
        let path = || self.file.path().to_owned();
        let error = |cause| SourceError::Gguf {
            path: path(),
            cause,
        };
        if !tokenizer::is_there(&self.metadata).map_err(error)? {
            return Err(SourceError::NoTokenizer {
                path: path(),
                sentencepiece_only: false,
            });
        }
        tokenizer::read(&self.metadata, self.config.vocab_size).map_err(error)
    }

    fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn generation(&self) -> &Generation {
        &self.generation
    }

    fn files(&self) -> &[SourceFile] {
        &self.files
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn row_order(&self, tensor: usize) -> RowOrder {
        let name = &*self.places[tensor].name;
        let of_head = name.strip_suffix(".weight").or(name.strip_suffix(".bias"));
        let rotated = of_head.is_some_and(|n| n.ends_with(".attn_q") || n.ends_with(".attn_k"));
        if rotated && self.interleaved {
            RowOrder::InterleavedRotary {
                head_dim: self.config.head_dim,
            }
        } else {
            RowOrder::AsStored
        }
    }
}
