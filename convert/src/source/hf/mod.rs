//! A checkpoint directory as Hugging Face's hub has them.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use chaski_models::config::{Config, HfConfig};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use serde_json::Value;

use super::{
    Generation, Naming, ReadAt, RowOrder, Source, SourceError, SourceFile, SourceTensor,
    TokenizerFiles,
};

pub use error::HfError;
pub use header::HeaderError;

mod error;
mod header;
mod json;
mod shards;
mod texts;

/// The longest JSON file or template that is read, tokenizers apart.
const MAX_JSON: u64 = 64 << 20;

/// The files that are read beside the weights.
const TEXTS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// A directory with `config.json`, safetensors files and a tokenizer.
#[derive(Debug)]
pub struct HfDirectory {
    dir: PathBuf,
    config: Config,
    notes: Vec<String>,
    shards: Vec<ReadAt>,
    files: Vec<SourceFile>,
    tensors: Vec<SourceTensor>,
    places: Vec<Place>,
    chat_template: Option<String>,
    generation: Generation,
}

/// Where a tensor's bytes are and what they mean.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: usize,
    offset: u64,
    element: Element,
}

#[derive(Clone, Copy, Debug)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl HfDirectory {
    /// Opens `dir` and checks everything but the tensors' values and the tokenizer.
    pub fn open(dir: &Path) -> Result<Self, SourceError> {
        let Some(config_json) = texts::object(dir, "config.json")? else {
            return Err(HfError::MissingFile {
                dir: dir.to_owned(),
                name: "config.json",
            }
            .into());
        };
        let generation = texts::generation(dir, &config_json)?;
        let HfConfig { config, notes } =
            HfConfig::parse(&Value::Object(config_json)).map_err(|cause| SourceError::Config {
                path: dir.join("config.json"),
                cause,
            })?;
        let mut this = Self {
            dir: dir.to_owned(),
            config,
            notes,
            shards: Vec::new(),
            files: Vec::new(),
            tensors: Vec::new(),
            places: Vec::new(),
            chat_template: texts::chat_template(dir)?,
            generation,
        };
        for (shard, (file, tensors)) in shards::open(dir)?.into_iter().enumerate() {
            for tensor in tensors {
                this.push(shard, file.path(), tensor)?;
            }
            this.files.push(SourceFile {
                path: file.path().to_owned(),
                len: file.len(),
            });
            this.shards.push(file);
        }
        for name in TEXTS {
            let path = dir.join(name);
            if let Ok(meta) = fs::metadata(&path) {
                this.files.push(SourceFile {
                    path,
                    len: meta.len(),
                });
            }
        }
        Ok(this)
    }

    fn push(
        &mut self,
        shard: usize,
        path: &Path,
        tensor: header::HeaderTensor,
    ) -> Result<(), SourceError> {
        let header::HeaderTensor {
            name,
            dtype,
            shape,
            offset,
            bytes,
        } = tensor;
        let file = || {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let element = match &*dtype {
            "F32" => Element::F32,
            "F16" => Element::F16,
            "BF16" => Element::Bf16,
            _ => {
                return Err(HfError::DType {
                    tensor: name,
                    file: file(),
                    dtype,
                }
                .into());
            }
        };
        // The bytes lie in the file, so on 64-bit machines neither dimension nor product overflows.
        let (rows, cols, vector) = match *shape {
            [cols] => (1, cols as usize, true),
            [rows, cols] => (rows as usize, cols as usize, false),
            _ => {
                return Err(HfError::Rank {
                    tensor: name,
                    file: file(),
                    shape,
                }
                .into());
            }
        };
        let bits_per_weight = 8.0 * element.bytes() as f64;
        self.tensors.push(SourceTensor {
            name,
            rows,
            cols,
            vector,
            dtype,
            bytes,
            bits_per_weight,
        });
        self.places.push(Place {
            shard,
            offset,
            element,
        });
        Ok(())
    }
}

impl Source for HfDirectory {
    fn kind(&self) -> &'static str {
        "safetensors"
    }

    fn naming(&self) -> Naming {
        Naming::HuggingFace
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
        let SourceTensor {
            rows: all, cols, ..
        } = self.tensors[tensor];
        assert!(
            rows.start <= rows.end && rows.end <= all,
            "rows {rows:?} of {all}"
        );
        let Place {
            shard,
            offset,
            element,
        } = self.places[tensor];
        let row_bytes = cols * element.bytes();
        let start = offset + (rows.start * row_bytes) as u64;
        self.shards[shard].append(start, rows.len() * row_bytes, out)
    }

    fn decode(
        &self,
        tensor: usize,
        _first: usize,
        raw: &[u8],
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        let SourceTensor { cols, ref name, .. } = self.tensors[tensor];
        let element = self.places[tensor].element;
        if raw.len() != out.len() * element.bytes() || !out.len().is_multiple_of(cols.max(1)) {
            return Err(SourceError::NotWholeRows {
                tensor: name.clone(),
                raw_bytes: raw.len(),
                floats: out.len(),
            });
        }
        match element {
            Element::F32 => {
                for (x, b) in out.iter_mut().zip(raw.as_chunks::<4>().0) {
                    *x = f32::from_le_bytes(*b);
                }
            }
            Element::Bf16 => {
                for (x, b) in out.iter_mut().zip(raw.as_chunks::<2>().0) {
                    *x = bf16::from_le_bytes(*b).to_f32();
                }
            }
            Element::F16 => {
                // By the slice: the conversion then uses the CPU's instruction where there is one.
                let mut halves = [f16::ZERO; 64];
                for (out, raw) in out.chunks_mut(64).zip(raw.chunks(128)) {
                    let halves = &mut halves[..out.len()];
                    for (h, b) in halves.iter_mut().zip(raw.as_chunks::<2>().0) {
                        *h = f16::from_le_bytes(*b);
                    }
                    halves.convert_to_f32_slice(out);
                }
            }
        }
        Ok(())
    }

    fn tokenizer(&self) -> Result<TokenizerFiles, SourceError> {
        texts::tokenizer(&self.dir)
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

    fn row_order(&self, _tensor: usize) -> RowOrder {
        RowOrder::AsStored
    }
}
