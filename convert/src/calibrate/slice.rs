//! One layer of a source as a model of its own.
//!
//! Its embeddings are the hidden states that enter the layer, a token for each, so that running it
//! on the tokens 0, 1, 2, ... runs the layer on these states. Only this layer's weights are in
//! memory, and the forward pass is the one that runs whole models.

use std::{io::Cursor, ops::Range};

use chaski_models::{
    config::Config,
    tensors::{Role, tensor_table},
};
use chaski_quant::QuantType;

use crate::{
    error::ConvertError,
    mapping::Mapped,
    options::ConvertOptions,
    pipeline::{Limits, texts, write},
    plan::plan,
    progress::Silent,
    recipe::{Recipe, TypeOverride},
    source::{
        Generation, Naming, RowOrder, Source, SourceError, SourceFile, SourceTensor, TokenizerFiles,
    },
};

/// Where a tensor of the slice comes from.
enum From {
    /// Tensor of the source.
    Source(usize),
    /// These floats.
    Floats(usize),
}

/// A layer of `source` with `hidden` as its embeddings.
pub(super) struct Slice<'a> {
    source: &'a dyn Source,
    config: Config,
    tensors: Vec<SourceTensor>,
    from: Vec<From>,
    floats: [&'a [f32]; 2],
    generation: Generation,
}

impl<'a> Slice<'a> {
    /// * `config`, `mapped`: the whole model's.
    /// * `hidden`: `[rows, dim]`.
    /// * `output_norm`: `[dim]`.
    pub(super) fn new(
        source: &'a dyn Source,
        config: &Config,
        mapped: &[Mapped],
        layer: usize,
        hidden: &'a [f32],
        output_norm: &'a [f32],
    ) -> Self {
        let slice = Config {
            n_layers: 1,
            vocab_size: hidden.len() / config.dim,
            tied_embeddings: true,
            sliding_window: config.window(layer),
            windowed_layers: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            ..config.clone()
        };
        let (mut tensors, mut from) = (Vec::new(), Vec::new());
        for spec in tensor_table(&slice) {
            let own = |i| {
                let (rows, cols) = (spec.rows, spec.cols);
                let tensor = SourceTensor {
                    name: String::new(),
                    rows,
                    cols,
                    vector: spec.vector,
                    dtype: "F32".to_owned(),
                    bytes: 4 * (rows * cols) as u64,
                    bits_per_weight: 32.0,
                };
                (tensor, From::Floats(i))
            };
            let (mut tensor, place) = match spec.role {
                Role::TokenEmbd => own(0),
                Role::OutputNorm => own(1),
                role => {
                    let same = |m: &&Mapped| m.spec.role == role && m.spec.layer == Some(layer);
                    let Some(mapped) = mapped.iter().find(same) else {
                        // The mapping has every tensor of the table, and the slice's roles are the
                        // model's.
                        continue;
                    };
                    let tensor = source.tensors()[mapped.source].clone();
                    (tensor, From::Source(mapped.source))
                }
            };
            tensor.name = spec.hf_name;
            tensors.push(tensor);
            from.push(place);
        }
        Self {
            source,
            config: slice,
            tensors,
            from,
            floats: [hidden, output_norm],
            generation: Generation::default(),
        }
    }

    /// The type that holds the layer's weights exactly.
    fn recipe(&self) -> Result<Recipe, ConvertError> {
        let all = |dtype: &str| {
            let of_source = self.from.iter().zip(&self.tensors);
            let mut matrices = of_source.filter(|(f, t)| matches!(f, From::Source(_)) && !t.vector);
            matrices.all(|(_, t)| t.dtype == dtype)
        };
        let name = match () {
            () if all("BF16") => "bf16",
            () if all("F16") => "f16",
            () => "f32",
        };
        let embeddings = TypeOverride {
            role: Role::TokenEmbd,
            qtype: QuantType::F32,
        };
        Recipe::named(name)
            .and_then(|r| r.with_overrides(&[embeddings]))
            .map_err(ConvertError::Recipe)
    }

    /// The bytes of a container that holds it.
    pub(super) fn file(&self, limits: Limits) -> Result<Vec<u8>, ConvertError> {
        let mut options = ConvertOptions::new(self.recipe()?);
        options.allow_missing_tokenizer = true;
        let plan = plan(self, &options)?;
        let metadata = texts::metadata(self, &plan, &options, None, &[])?;
        let out = Cursor::new(Vec::with_capacity(plan.file_bytes as usize + (1 << 16)));
        let (out, _) = write(self, &plan, limits, out, metadata, &[], &Silent, None)?;
        Ok(out.into_inner())
    }
}

impl Source for Slice<'_> {
    fn kind(&self) -> &'static str {
        self.source.kind()
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
        match self.from[tensor] {
            From::Source(index) => self.source.read_raw(index, rows, out),
            From::Floats(i) => {
                let cols = self.tensors[tensor].cols;
                let floats = &self.floats[i][rows.start * cols..rows.end * cols];
                out.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
                Ok(())
            }
        }
    }

    fn decode(&self, tensor: usize, raw: &[u8], out: &mut [f32]) -> Result<(), SourceError> {
        match self.from[tensor] {
            From::Source(index) => self.source.decode(index, raw, out),
            From::Floats(_) => {
                for (x, raw) in out.iter_mut().zip(raw.as_chunks::<4>().0) {
                    *x = f32::from_le_bytes(*raw);
                }
                Ok(())
            }
        }
    }

    fn tokenizer(&self) -> Result<TokenizerFiles, SourceError> {
        Err(SourceError::NoTokenizer {
            path: std::path::PathBuf::new(),
            sentencepiece_only: false,
        })
    }

    fn chat_template(&self) -> Option<&str> {
        None
    }

    fn generation(&self) -> &Generation {
        &self.generation
    }

    /// None: nobody wants the digests of the source's files again with every layer.
    fn files(&self) -> &[SourceFile] {
        &[]
    }

    fn row_order(&self, tensor: usize) -> RowOrder {
        match self.from[tensor] {
            From::Source(index) => self.source.row_order(index),
            From::Floats(_) => RowOrder::AsStored,
        }
    }
}
