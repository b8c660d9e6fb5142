//! What comes out is what went in, whatever the source's form and the machine.

use std::{collections::BTreeMap, fs, num::NonZeroUsize, ops::Range, path::Path};

use chaski_models::{config::Config, metadata::ModelMetadata, tensors::tensor_table};
use chaski_quant::{
    QuantType,
    container::{Container, SectionKind, TensorKind},
    scalar::dequantize_row,
};
use safetensors::Dtype;

use super::checkpoint::Checkpoint;
use crate::{
    ConvertOptions, Note, Recipe, Report, Silent, convert, plan,
    source::{
        self, Generation, Naming, RowOrder, Source, SourceError, SourceFile, SourceTensor,
        TokenizerFiles,
    },
};

pub(super) fn options(recipe: &str) -> ConvertOptions {
    ConvertOptions::new(Recipe::named(recipe).unwrap())
}

fn convert_dir(dir: &Path, options: &ConvertOptions) -> (Container, Report) {
    let source = source::open(dir).unwrap();
    convert_source(&*source, options)
}

fn convert_source(source: &dyn Source, options: &ConvertOptions) -> (Container, Report) {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.chaski");
    let report = convert(source, &path, options, &Silent).unwrap();
    let container = Container::from_bytes(fs::read(&path).unwrap()).unwrap();
    container.verify(|_, _| {}).unwrap();
    assert_eq!(container.file_len(), report.file_bytes);
    (container, report)
}

/// Every tensor of the file as floats, by its name in the file.
fn floats(container: &Container) -> BTreeMap<String, Vec<f32>> {
    let tensors = container.tensors().iter().enumerate().map(|(i, entry)| {
        let view = container.tensor_at(i);
        let floats = match entry.kind {
            TensorKind::Vector { .. } => view.vector().unwrap(),
            TensorKind::Matrix(layout) => {
                let tiles = view.tiles().unwrap();
                let mut floats = vec![f32::NAN; layout.rows() * layout.cols()];
                for (row, out) in floats.chunks_exact_mut(layout.cols()).enumerate() {
                    let (tile, lane) = layout.tile_and_lane(row);
                    dequantize_row(&layout, tiles.tile(tile), lane, out);
                }
                floats
            }
        };
        (entry.name.clone(), floats)
    });
    tensors.collect()
}

/// The source's values by the names in the file.
fn source_floats(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let config = Config::from_hf(&checkpoint.config).unwrap();
    let specs = tensor_table(&config).into_iter();
    specs
        .map(|s| (s.name, checkpoint.tensors[&s.hf_name].values.clone()))
        .collect()
}

#[test]
fn floats_come_through_unchanged() {
    // Each type holds the other's values where it says so.
    for (dtype, recipes) in [
        (Dtype::F32, &["f32"][..]),
        (Dtype::F16, &["f16", "f32"]),
        (Dtype::BF16, &["bf16", "f32"]),
    ] {
        for tied in [false, true] {
            let checkpoint = Checkpoint::new(dtype, tied);
            let dir = checkpoint.write();
            for recipe in recipes {
                let (container, report) = convert_dir(dir.path(), &options(recipe));
                assert!(
                    floats(&container) == source_floats(&checkpoint),
                    "{dtype} to {recipe}"
                );
                assert!(report.worst.is_empty(), "{:?}", report.worst);
                assert!(report.roles.iter().all(|r| r.error.sqnr_db.is_none()));
            }
        }
    }
}

#[test]
fn quantised_weights_are_within_the_error_of_their_type() {
    let checkpoint = Checkpoint::new(Dtype::BF16, false);
    let dir = checkpoint.write();
    let want = source_floats(&checkpoint);
    // What the types reach on normal weights (docs of chaski-quant), less 3 dB for matrices as
    // small as these.
    let least = |qtype| match qtype {
        QuantType::Q3 => 13.6,
        QuantType::Q4 => 19.8,
        QuantType::Q4H => 21.2,
        QuantType::Q5 => 24.8,
        QuantType::Q6 => 30.9,
        QuantType::Q8 => 42.6,
        _ => f64::INFINITY,
    };
    for recipe in ["q3", "q4", "q4h", "q5", "q6", "q8"] {
        let (container, report) = convert_dir(dir.path(), &options(recipe));
        let metadata = ModelMetadata::from_json(container.metadata()).unwrap();
        let mut sums = BTreeMap::<_, (f64, f64)>::new();
        for (planned, (name, got)) in plan_of(dir.path(), recipe).iter().zip(by_file(&container)) {
            assert_eq!(planned.name, name);
            let (mut signal, mut error) = (0.0, 0.0);
            for (w, x) in want[&name].iter().zip(&got) {
                signal += f64::from(*w).powi(2);
                error += (f64::from(*w) - f64::from(*x)).powi(2);
            }
            let db = -10.0 * (error / signal).log10();
            let least = least(planned.qtype);
            assert!(
                error == 0.0 || db >= least,
                "{recipe}: {name}: {db:.2} dB, expected {least}"
            );
            let sum = sums.entry(planned.role).or_default();
            (sum.0, sum.1) = (sum.0 + signal, sum.1 + error);
        }
        // The quantiser's own account of the error is the true one.
        for role in &report.roles {
            let (signal, error) = sums[&role.role];
            let rms = (error / signal).sqrt();
            assert!(
                (role.error.relative_rms - rms).abs() <= 1e-4 * rms,
                "{recipe}: {}: {} told, {rms} found",
                role.role,
                role.error.relative_rms
            );
            let recorded = metadata.report[&role.role];
            assert_eq!(recorded.nmse().sqrt(), role.error.relative_rms);
            assert_eq!(recorded.n, role.n_weights);
        }
        assert!(!report.worst.is_empty());
        let worst: Vec<_> = report.worst.iter().map(|t| t.error.relative_rms).collect();
        assert!(worst.is_sorted_by(|a, b| a >= b), "{worst:?}");
    }
}

fn plan_of(dir: &Path, recipe: &str) -> Vec<crate::PlannedTensor> {
    plan(&*source::open(dir).unwrap(), &options(recipe))
        .unwrap()
        .tensors
}

fn by_file(container: &Container) -> Vec<(String, Vec<f32>)> {
    let mut floats = floats(container);
    let names = container.tensors().iter().map(|t| t.name.clone());
    names
        .map(|name| (name.clone(), floats.remove(&name).unwrap()))
        .collect()
}

#[test]
fn the_bytes_depend_on_neither_threads_nor_runs_nor_the_place() {
    let checkpoint = Checkpoint::new(Dtype::BF16, true);
    let mut files = Vec::new();
    for threads in [1, 1, 2, 4] {
        let dir = checkpoint.write();
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join(format!("out{threads}.chaski"));
        let options = ConvertOptions {
            threads: NonZeroUsize::new(threads),
            ..options("q4")
        };
        let report = convert(
            &*source::open(dir.path()).unwrap(),
            &path,
            &options,
            &Silent,
        )
        .unwrap();
        assert_eq!(report.threads, threads);
        files.push(fs::read(&path).unwrap());
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn shards_give_the_tensors_of_a_single_file() {
    let checkpoint = Checkpoint::new(Dtype::F16, false);
    let (single, _) = convert_dir(checkpoint.write().path(), &options("q5"));
    let (shards, _) = convert_dir(checkpoint.write_shards(3).path(), &options("q5"));
    assert_eq!(single.tensors(), shards.tensors());
    let data = |c: &Container| -> Vec<u8> {
        let of = |i: usize| match c.tensors()[i].kind {
            TensorKind::Vector { .. } => c
                .tensor_at(i)
                .vector()
                .unwrap()
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            TensorKind::Matrix(_) => {
                let tiles = c.tensor_at(i).tiles().unwrap();
                (0..tiles.n_tiles())
                    .flat_map(|t| tiles.tile(t).to_vec())
                    .collect::<Vec<u8>>()
            }
        };
        (0..c.tensors().len()).flat_map(of).collect()
    };
    assert!(data(&single) == data(&shards));
    let metadata = ModelMetadata::from_json(shards.metadata()).unwrap();
    let names: Vec<_> = metadata.provenance.files.iter().map(|f| &*f.name).collect();
    assert_eq!(names[0], "model-00001-of-00003.safetensors");
    assert!(names.contains(&"model.safetensors.index.json"), "{names:?}");
}

#[test]
fn the_file_records_where_it_came_from_and_what_was_asked() {
    let mut checkpoint = Checkpoint::new(Dtype::F32, true);
    let template = "{{ messages[0].content }}<|im_end|>";
    checkpoint
        .texts
        .insert("chat_template.jinja".to_owned(), template.to_owned());
    checkpoint.texts.insert(
        "generation_config.json".to_owned(),
        r#"{"eos_token_id": [4, 2], "temperature": 0.6, "top_p": 0.9, "do_sample": true}"#
            .to_owned(),
    );
    let dir = checkpoint.write();
    let recipe = Recipe::named("q4").unwrap();
    let recipe = recipe
        .with_overrides(&["attn_v=q6".parse().unwrap()])
        .unwrap();
    let (container, report) = convert_dir(dir.path(), &ConvertOptions::new(recipe));
    let metadata = ModelMetadata::from_json(container.metadata()).unwrap();
    assert_eq!(
        metadata.config,
        Config::from_hf(&checkpoint.config).unwrap()
    );
    assert_eq!(metadata.chat_template.as_deref(), Some(template));
    let eos: Vec<_> = metadata
        .generation
        .eos_token_ids
        .iter()
        .map(|id| id.0)
        .collect();
    assert_eq!(
        (eos, metadata.generation.temperature),
        (vec![4, 2], Some(0.6))
    );
    assert_eq!(metadata.generation.do_sample, Some(true));
    assert_eq!(metadata.tokenizer.eos.map(|id| id.0), Some(4));
    assert_eq!(
        (&*metadata.recipe.name, metadata.recipe.version),
        ("q4", report.recipe.version)
    );
    let options: Vec<_> = metadata.provenance.options.iter().collect();
    assert_eq!(
        options,
        [
            (&"quant".to_owned(), &"q4".to_owned()),
            (&"tensor-type".to_owned(), &"attn_v=q6".to_owned()),
        ]
    );
    let weights = &metadata.provenance.files[0];
    assert_eq!(weights.name, "model.safetensors");
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    assert_eq!(weights.bytes, bytes.len() as u64);
    let hex: String = <sha2::Sha256 as sha2::Digest>::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(weights.sha256, hex);
    assert!(container.section(SectionKind::Tokenizer).is_some());
    assert!(container.section(SectionKind::TokenizerFast).is_some());
    assert_eq!(
        metadata.extensions["tokenizer_config"]["eos_token"],
        "<|im_end|>"
    );
    assert!(
        !container.metadata().contains(dir.path().to_str().unwrap()),
        "no paths"
    );
}

#[test]
fn a_plan_tells_places_and_sizes_exactly() {
    let dir = Checkpoint::new(Dtype::BF16, false).write();
    let source = source::open(dir.path()).unwrap();
    let plan = plan(&*source, &options("q4")).unwrap();
    let (container, report) = convert_source(&*source, &options("q4"));
    let data = container.data_range();
    assert_eq!(plan.data_bytes, data.len() as u64);
    for (planned, entry) in plan.tensors.iter().zip(container.tensors()) {
        assert_eq!(
            (&planned.name, planned.bytes),
            (&entry.name, entry.kind.bytes() as u64)
        );
        assert_eq!(
            planned.offset,
            data.start as u64 + entry.offset,
            "{}",
            planned.name
        );
    }
    let texts: u64 = container
        .sections()
        .iter()
        .filter(|s| !matches!(s.kind, SectionKind::Data | SectionKind::Directory))
        .map(|s| s.len)
        .sum();
    // Up to the alignment of the three sections that follow the directory.
    assert!((texts..texts + 3 * 64).contains(&(report.file_bytes - plan.file_bytes)));
    assert_eq!(plan.n_weights, report.n_weights);
    assert_eq!(
        report.n_weights,
        report.roles.iter().map(|r| r.n_weights).sum::<u64>()
    );

    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["tensors"][0]["qtype"], "q6");
    assert_eq!(json["tensors"][2]["role"], "attn_q");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["roles"][0]["role"], "token_embd");
    assert!(json["roles"][0]["sqnr_db"].as_f64().unwrap() > 20.0);
}

/// A source whose Q and K rows are in GGUF's order.
struct Interleaved(Box<dyn Source>);

const HEAD_DIM: usize = 20;

impl Source for Interleaved {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
    fn naming(&self) -> Naming {
        self.0.naming()
    }
    fn config(&self) -> &Config {
        self.0.config()
    }
    fn tensors(&self) -> &[SourceTensor] {
        self.0.tensors()
    }
    fn read_raw(
        &self,
        tensor: usize,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        if self.row_order(tensor) == RowOrder::AsStored {
            return self.0.read_raw(tensor, rows, out);
        }
        for row in rows {
            // As llama.cpp's converter does: the two halves of a head become neighbours.
            let (head, i) = (row / HEAD_DIM, row % HEAD_DIM);
            let row = head * HEAD_DIM + i / 2 + i % 2 * (HEAD_DIM / 2);
            self.0.read_raw(tensor, row..row + 1, out)?;
        }
        Ok(())
    }
    fn decode(
        &self,
        tensor: usize,
        first: usize,
        raw: &[u8],
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        self.0.decode(tensor, first, raw, out)
    }
    fn tokenizer(&self) -> Result<TokenizerFiles, SourceError> {
        self.0.tokenizer()
    }
    fn chat_template(&self) -> Option<&str> {
        self.0.chat_template()
    }
    fn generation(&self) -> &Generation {
        self.0.generation()
    }
    fn files(&self) -> &[SourceFile] {
        self.0.files()
    }
    fn row_order(&self, tensor: usize) -> RowOrder {
        let name = &self.tensors()[tensor].name;
        if name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") {
            RowOrder::InterleavedRotary { head_dim: HEAD_DIM }
        } else {
            RowOrder::AsStored
        }
    }
}

#[test]
fn interleaved_rotary_rows_are_put_back() {
    let checkpoint = Checkpoint::new(Dtype::F32, true);
    let dir = checkpoint.write();
    let interleaved = Interleaved(source::open(dir.path()).unwrap());
    let (container, _) = convert_source(&interleaved, &options("f32"));
    assert!(floats(&container) == source_floats(&checkpoint));
}

#[test]
fn ties_are_what_the_weights_say() {
    let output = "lm_head.weight";
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    let embeddings = checkpoint.tensors["model.embed_tokens.weight"].clone();

    checkpoint
        .tensors
        .insert(output.to_owned(), embeddings.clone());
    let (container, report) = convert_dir(checkpoint.write().path(), &options("q8"));
    assert!(container.tensor("output").is_none());
    assert!(report.notes.contains(&Note::TiedCopyDropped {
        tensor: output.to_owned()
    }));

    // A type for a matrix that there is not.
    let asked = "output=q6".parse().unwrap();
    let recipe = Recipe::named("q8").unwrap();
    let recipe = recipe.with_overrides(&[asked]).unwrap();
    let (_, report) = convert_dir(checkpoint.write().path(), &ConvertOptions::new(recipe));
    assert!(report.notes.contains(&Note::OverrideUnused {
        asked: "output=q6".to_owned()
    }));

    // Equal values of another type are equal, too.
    let mut wider = embeddings.clone();
    wider.dtype = Dtype::F32;
    checkpoint.tensors.insert(output.to_owned(), wider);
    let (container, _) = convert_dir(checkpoint.write().path(), &options("q8"));
    assert!(container.tensor("output").is_none());

    let mut other = embeddings;
    *other.values.last_mut().unwrap() += 1.0;
    checkpoint.tensors.insert(output.to_owned(), other);
    let (container, report) = convert_dir(checkpoint.write().path(), &options("q8"));
    assert!(container.tensor("output").is_some());
    assert!(report.notes.contains(&Note::Untied {
        tensor: output.to_owned()
    }));
    let metadata = ModelMetadata::from_json(container.metadata()).unwrap();
    assert!(!metadata.config.tied_embeddings);
    assert!(
        metadata
            .provenance
            .notes
            .iter()
            .any(|n| n.contains("lm_head"))
    );
}
