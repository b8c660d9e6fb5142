//! One layer of a source as a model of its own, or its head.
//!
//! A layer's embeddings are the hidden states that enter it, a token for each, so that running it
//! on the tokens 0, 1, 2, ... runs the layer on these states. Only this layer's weights are in
//! memory, and the forward pass is the one that runs whole models.

use std::{io::Cursor, ops::Range, path::Path};

use chaski_models::{
    config::Config,
    tensors::{Role, tensor_table},
};
use chaski_quant::QuantType;

use crate::{
    error::ConvertError,
    mapping::Mapped,
    options::ConvertOptions,
    pipeline::{
        Limits, schedule::schedule_range, spill::Spill, texts, tiles::segment_bytes, write,
    },
    plan::{ConvertPlan, plan},
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

/// A layer of `source` with hidden states as its embeddings, or with its output matrix.
pub(crate) struct Slice<'a> {
    source: &'a dyn Source,
    config: Config,
    tensors: Vec<SourceTensor>,
    from: Vec<From>,
    floats: [&'a [f32]; 2],
    generation: Generation,
}

impl<'a> Slice<'a> {
    /// A layer.
    ///
    /// * `config`, `mapped`: the whole model's.
    /// * `hidden`: `[rows, dim]`.
    /// * `output_norm`: `[dim]`.
    pub(crate) fn new(
        source: &'a dyn Source,
        config: &Config,
        mapped: &[Mapped],
        layer: usize,
        hidden: &'a [f32],
        output_norm: &'a [f32],
    ) -> Self {
        let n_rows = hidden.len() / config.dim;
        let floats = [hidden, output_norm];
        Self::of(source, config, mapped, layer, n_rows, None, floats)
    }

    /// The head: the last norm and the output matrix, which is the embeddings' place, too. Models have
    /// a layer, so the last one is there.
    ///
    /// * `config`, `mapped`: the whole model's.
    /// * `output_norm`: `[dim]`.
    pub(crate) fn head(
        source: &'a dyn Source,
        config: &Config,
        mapped: &[Mapped],
        output_norm: &'a [f32],
    ) -> Self {
        let role = match config.tied_embeddings {
            true => Role::TokenEmbd,
            false => Role::Output,
        };
        let output = mapped.iter().find(|m| m.spec.role == role);
        let output = output.map_or(0, |m| m.source);
        let (layer, n_rows) = (config.n_layers - 1, config.vocab_size);
        let floats = [&[][..], output_norm];
        Self::of(source, config, mapped, layer, n_rows, Some(output), floats)
    }

    /// * `n_rows`: of the embeddings.
    /// * `embeddings`: the source's tensor; `None`: the first of `floats`.
    fn of(
        source: &'a dyn Source,
        config: &Config,
        mapped: &[Mapped],
        layer: usize,
        n_rows: usize,
        embeddings: Option<usize>,
        floats: [&'a [f32]; 2],
    ) -> Self {
        let slice = Config {
            n_layers: 1,
            vocab_size: n_rows,
            tied_embeddings: true,
            sliding_window: config.window(layer),
            windowed_layers: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            ..config.clone()
        };
        let (mut tensors, mut from) = (Vec::new(), Vec::new());
        for spec in tensor_table(&slice) {
            let of_source = |index: usize| (source.tensors()[index].clone(), From::Source(index));
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
                Role::TokenEmbd => embeddings.map_or_else(|| own(0), of_source),
                Role::OutputNorm => own(1),
                role => {
                    let same = |m: &&Mapped| m.spec.role == role && m.spec.layer == Some(layer);
                    let Some(mapped) = mapped.iter().find(same) else {
                        // The mapping has every tensor of the table, and the slice's roles are the
                        // model's.
                        continue;
                    };
                    of_source(mapped.source)
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
            floats,
            generation: Generation::default(),
        }
    }

    /// The type that holds the weights exactly, but for the roles of `types`.
    fn recipe(&self, types: &[TypeOverride]) -> Result<Recipe, ConvertError> {
        let all = |dtype: &str| {
            let of_source = self.from.iter().zip(&self.tensors);
            let mut matrices = of_source.filter(|(f, t)| matches!(f, From::Source(_)) && !t.vector);
            matrices.all(|(_, t)| t.dtype == dtype)
        };
        // Times powers of two, bf16 stays bf16, whose exponents are those of f32; f16 does not.
        let name = match () {
            () if all("BF16") => "bf16",
            () if all("F16") && !self.source.is_balanced() => "f16",
            () => "f32",
        };
        let mut types = types.to_vec();
        let has_floats = matches!(self.from.first(), Some(From::Floats(_)));
        if has_floats && types.iter().all(|t| t.role != Role::TokenEmbd) {
            types.push(TypeOverride {
                role: Role::TokenEmbd,
                qtype: QuantType::F32,
            });
        }
        Recipe::named(name)
            .and_then(|r| r.with_overrides(&types))
            .map_err(ConvertError::Recipe)
    }

    /// The bytes of a container that holds it with the tiles that `spill` has of its layer.
    ///
    /// * `whole`, `mapped`: the plan and the tensors of the whole model.
    pub(crate) fn file_with(
        &self,
        limits: Limits,
        layer: usize,
        whole: &ConvertPlan,
        mapped: &[Mapped],
        spill: &Spill,
        folder: &Path,
    ) -> Result<Vec<u8>, ConvertError> {
        let specs = tensor_table(&self.config);
        let index = |i: usize| {
            let same = |m: &Mapped| m.spec.role == specs[i].role && m.spec.layer == Some(layer);
            mapped.iter().position(same)
        };
        let mut types: Vec<TypeOverride> = (0..specs.len())
            .filter(|&i| !specs[i].vector)
            .filter_map(|i| {
                let qtype = whole.tensors[index(i)?].qtype;
                let role = specs[i].role;
                Some(TypeOverride { role, qtype })
            })
            .collect();
        types.push(TypeOverride {
            role: Role::TokenEmbd,
            qtype: QuantType::F32,
        });
        let recipe = Recipe::named("f32").and_then(|r| r.with_overrides(&types));
        let mut options = ConvertOptions::new(recipe.map_err(ConvertError::Recipe)?);
        options.allow_missing_tokenizer = true;
        let plan = plan(self, &options)?;
        let mut own = Spill::new(folder, &plan.inner.data)?;
        let (mut bytes, mut next) = (Vec::new(), 0);
        while next < specs.len() {
            let first = next;
            let pair = specs[first].role.is_interleaved();
            next += 1 + usize::from(pair);
            let Some(at) = index(first) else { continue };
            let Some(stats) = spill.stats(at) else {
                continue;
            };
            for mut chunk in schedule_range(&plan.inner.work, first..next, limits.chunk) {
                let len = chunk
                    .iter()
                    .map(|s| segment_bytes(&plan.inner.work, s))
                    .sum();
                bytes.clear();
                bytes.resize(len, 0);
                chunk
                    .iter_mut()
                    .for_each(|s| s.tensor = s.tensor + at - first);
                spill.get(&whole.inner.work, &chunk, &mut bytes)?;
                chunk
                    .iter_mut()
                    .for_each(|s| s.tensor = s.tensor + first - at);
                own.put(&plan.inner.work, &chunk, &bytes)?;
            }
            (first..next).for_each(|i| own.complete(i, stats));
        }
        self.write(&plan, &options, limits, Some(&own))
    }

    fn write(
        &self,
        plan: &ConvertPlan,
        options: &ConvertOptions,
        limits: Limits,
        spill: Option<&Spill>,
    ) -> Result<Vec<u8>, ConvertError> {
        let metadata = texts::metadata(self, plan, options, None, &[])?;
        let out = Cursor::new(Vec::with_capacity(plan.file_bytes as usize + (1 << 16)));
        let written = write(self, plan, limits, out, metadata, &[], &Silent, spill);
        let (out, _) = written.map_err(|e| self.in_source(e))?;
        Ok(out.into_inner())
    }

    /// An error that calls a tensor what the source calls it: here all layers are the first.
    fn in_source(&self, error: ConvertError) -> ConvertError {
        let own = |name: String| {
            let at = self.tensors.iter().position(|t| t.name == name);
            match at.map(|at| &self.from[at]) {
                Some(&From::Source(index)) => self.source.tensors()[index].name.clone(),
                _ => name,
            }
        };
        match error {
            ConvertError::NotFinite {
                tensor,
                row,
                col,
                value,
            } => ConvertError::NotFinite {
                tensor: own(tensor),
                row,
                col,
                value,
            },
            ConvertError::Quantize { tensor, cause } => ConvertError::Quantize {
                tensor: own(tensor),
                cause,
            },
            error => error,
        }
    }

    /// The bytes of a container that holds it.
    pub(crate) fn file(&self, limits: Limits) -> Result<Vec<u8>, ConvertError> {
        self.file_as(limits, &[])
    }

    /// The bytes of a container that holds it, some roles in other types than exact ones.
    pub(crate) fn file_as(
        &self,
        limits: Limits,
        types: &[TypeOverride],
    ) -> Result<Vec<u8>, ConvertError> {
        let mut options = ConvertOptions::new(self.recipe(types)?);
        options.allow_missing_tokenizer = true;
        let plan = plan(self, &options)?;
        self.write(&plan, &options, limits, None)
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

    fn decode(
        &self,
        tensor: usize,
        first: usize,
        raw: &[u8],
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        match self.from[tensor] {
            From::Source(index) => self.source.decode(index, first, raw, out),
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

    fn is_balanced(&self) -> bool {
        self.source.is_balanced()
    }

    fn row_order(&self, tensor: usize) -> RowOrder {
        match self.from[tensor] {
            From::Source(index) => self.source.row_order(index),
            From::Floats(_) => RowOrder::AsStored,
        }
    }
}
