//! Weights are only ever the map of their file: a model that runs owns no page of them.
//!
//! In a binary of its own, since it looks at the memory of the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

use std::{fs, io::BufWriter, path::Path, sync::Arc};

use chaski::{Model, ModelOptions, Residence, Session, SessionOptions, plan::plan};
use chaski_models::{
    Config, TokenId,
    metadata::{METADATA_VERSION, ModelMetadata, Provenance, RecipeInfo},
    tensor_table,
    testing::Variant,
};
use chaski_quant::{
    QuantType,
    container::{AtomicFile, ContainerWriter, DataPlan, TensorDecl, TensorKind},
};

/// What a process may own beside the KV cache.
const MOST: u64 = 64 << 20;

/// A model whose weights are larger than what may be owned, all zero.
fn write_model(path: &Path) {
    let config = Config {
        dim: 1024,
        ffn_dim: 8192,
        vocab_size: 32_000,
        ..Variant::Llama.config()
    };
    let specs = tensor_table(&config);
    let decls: Vec<TensorDecl> = specs
        .iter()
        .map(|spec| TensorDecl {
            name: spec.name.clone(),
            kind: if spec.vector {
                TensorKind::Vector { len: spec.cols }
            } else {
                TensorKind::Matrix(spec.layout(QuantType::F16).unwrap())
            },
            section_start: spec.role.starts_section(),
            interleaved: spec.role.is_interleaved(),
        })
        .collect();
    let plan = DataPlan::new(decls.clone()).unwrap();
    let file = BufWriter::new(AtomicFile::create(path, false).unwrap());
    let mut writer = ContainerWriter::new(file, plan).unwrap();
    let mut i = 0;
    while i < decls.len() {
        match decls[i].kind {
            TensorKind::Vector { len } => writer.write(i, &vec![0; 4 * len]).unwrap(),
            TensorKind::Matrix(layout) => {
                let tile = vec![0; layout.tile_bytes()];
                // Tiles of a matrix and of the one that alternates with it take turns.
                let pair = if decls[i].interleaved { 2 } else { 1 };
                for _ in 0..layout.n_tiles() {
                    (0..pair).for_each(|p| writer.write(i + p, &tile).unwrap());
                }
                i += pair - 1;
            }
        }
        i += 1;
    }
    let metadata = ModelMetadata {
        version: METADATA_VERSION,
        config,
        chat_template: None,
        generation: Default::default(),
        tokenizer: Default::default(),
        provenance: Provenance::default(),
        recipe: RecipeInfo::default(),
        report: Default::default(),
        extensions: Default::default(),
    };
    let out = writer.finish(&metadata.to_json().unwrap(), &[]).unwrap();
    out.into_inner().unwrap().commit().unwrap();
}

/// Bytes of this process's memory.
#[derive(Debug, Default)]
struct Owned {
    /// Pages that are no file's, over all maps.
    anonymous: u64,
    /// Of the model's file: resident pages, and those that were written to or copied.
    model_resident: u64,
    model_dirty: u64,
}

fn owned(model: &Path) -> Owned {
    let mut sum = Owned::default();
    let mut is_model = false;
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let Some((name, value)) = line.split_once(':').filter(|(n, _)| !n.contains('-')) else {
            // The head of a map: addresses, rights, offset, device, inode, path.
            is_model = line.ends_with(model.to_str().unwrap());
            continue;
        };
        let kib = value
            .trim()
            .strip_suffix(" kB")
            .and_then(|v| v.parse::<u64>().ok());
        let bytes = kib.unwrap_or(0) * 1024;
        match name {
            "Anonymous" => sum.anonymous += bytes,
            "Rss" if is_model => sum.model_resident += bytes,
            "Private_Dirty" if is_model => sum.model_dirty += bytes,
            _ => {}
        }
    }
    sum
}

/// Reads a prompt and some tokens more.
fn decode(model: &Arc<Model>, options: &SessionOptions) -> Session {
    let mut session = Session::new(model, options).unwrap();
    session.extend(&[TokenId(7); 100]).unwrap();
    for i in 0..20 {
        session.extend(&[TokenId(31_000 + i)]).unwrap();
    }
    session
}

// One test: two at once would see each other's memory.
#[test]
fn a_model_that_decodes_owns_no_weights_unless_it_was_asked_to_copy_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zero.chaski");
    write_model(&path);
    let file_len = fs::metadata(&path).unwrap().len();
    assert!(file_len > 2 * MOST, "{file_len} bytes could hide");
    let options = SessionOptions {
        context_len: Some(1000),
        ubatch: 128,
        threads: Some(2),
        ..SessionOptions::default()
    };

    let model = Arc::new(Model::open(&path, &ModelOptions::default()).unwrap());
    let kv_cache = plan(&model, &options).unwrap().kv_cache;
    let session = decode(&model, &options);
    let memory = owned(&path);
    // All of it was used: the embeddings are the head.
    assert!(memory.model_resident > file_len * 9 / 10, "{memory:?}");
    assert_eq!(memory.model_dirty, 0, "{memory:?}");
    assert!(memory.anonymous <= kv_cache + MOST, "{memory:?}");
    drop((session, model));

    let copied = ModelOptions {
        residence: Residence::HugePages,
        ..ModelOptions::default()
    };
    let model = Arc::new(Model::open(&path, &copied).unwrap());
    let session = decode(&model, &options);
    let memory = owned(&path);
    assert_eq!(memory.model_resident, 0, "{memory:?}");
    assert!(memory.anonymous >= file_len, "{memory:?}");
    drop((session, model));

    let locked = ModelOptions {
        residence: Residence::Locked,
        ..ModelOptions::default()
    };
    match Model::open(&path, &locked) {
        Ok(model) => {
            // Resident before anything was computed.
            let memory = owned(&path);
            assert!(memory.model_resident > file_len * 9 / 10, "{memory:?}");
            assert_eq!(memory.model_dirty, 0, "{memory:?}");
            drop(model);
        }
        Err(e) => {
            let cause = std::error::Error::source(&e).unwrap().to_string();
            assert!(cause.contains("RLIMIT_MEMLOCK"), "{cause}");
            assert!(cause.contains("go without --mlock"), "{cause}");
        }
    }
}
