//! Tiny models: in files, and in the oracle.

use std::{io::Cursor, path::Path, sync::Arc};

use chaski::{Model, ModelError, ModelOptions};
use chaski_kernels_simd::Kernels;
use chaski_models::{
    Config, TensorSpec, TokenId,
    metadata::{METADATA_VERSION, ModelMetadata, Provenance, RecipeInfo},
    reference::{KvType, Reference, TensorData},
    tensor_table,
    testing::{Variant, weights},
};
use chaski_quant::{
    QuantType, TILE_ROWS,
    container::{Container, ContainerWriter, DataPlan, TensorDecl, TensorKind},
    quantize::Quantizer,
};

/// The tensor's bytes in `qtype`.
fn tiles(spec: &TensorSpec, floats: &[f32], qtype: QuantType) -> Vec<u8> {
    let layout = spec.layout(qtype).unwrap();
    let quantizer = Quantizer::new(qtype);
    let mut bytes = vec![0; layout.bytes()];
    for (i, tile) in bytes.chunks_exact_mut(layout.tile_bytes()).enumerate() {
        let rows = layout
            .tile_rows(i)
            .map(|r| &floats[r * spec.cols..(r + 1) * spec.cols]);
        let rows: Vec<&[f32]> = rows.collect();
        assert!(rows.len() <= TILE_ROWS);
        quantizer.quantize_tile(&rows, tile).unwrap();
    }
    bytes
}

/// The type of each matrix: `qtype`, or all types mixed.
fn type_of(spec: &TensorSpec, qtype: Option<QuantType>) -> QuantType {
    use chaski_models::Role;
    qtype.unwrap_or_else(|| {
        let pair = |a: usize| QuantType::ALL[(a + spec.layer.unwrap_or(0)) % QuantType::ALL.len()];
        match spec.role {
            Role::FfnGate | Role::FfnUp => pair(3),
            role => pair(role as usize),
        }
    })
}

fn metadata(config: &Config) -> ModelMetadata {
    ModelMetadata {
        version: METADATA_VERSION,
        config: config.clone(),
        chat_template: None,
        generation: Default::default(),
        tokenizer: Default::default(),
        provenance: Provenance::default(),
        recipe: RecipeInfo::default(),
        report: Default::default(),
        extensions: Default::default(),
    }
}

/// The file of a variant whose matrices are of `qtype` (`None`: of all types).
pub(crate) fn container(variant: Variant, qtype: Option<QuantType>) -> Vec<u8> {
    container_of(&variant.config(), variant.seed(), qtype)
}

/// The same of any config, with weights that `seed` decides.
pub(crate) fn container_of(config: &Config, seed: u64, qtype: Option<QuantType>) -> Vec<u8> {
    let table = tensor_table(config);
    let decls = table
        .iter()
        .map(|spec| TensorDecl {
            name: spec.name.clone(),
            kind: if spec.vector {
                TensorKind::Vector { len: spec.cols }
            } else {
                TensorKind::Matrix(spec.layout(type_of(spec, qtype)).unwrap())
            },
            section_start: spec.role.starts_section(),
            interleaved: spec.role.is_interleaved(),
        })
        .collect();
    let mut writer =
        ContainerWriter::new(Cursor::new(Vec::new()), DataPlan::new(decls).unwrap()).unwrap();
    let mut i = 0;
    while i < table.len() {
        let spec = &table[i];
        let floats = weights(seed, spec);
        if spec.vector {
            let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
            writer.write(i, &bytes).unwrap();
        } else if spec.role.is_interleaved() {
            let next = &table[i + 1];
            let qtype = type_of(spec, qtype);
            let pair = [
                tiles(spec, &floats, qtype),
                tiles(next, &weights(seed, next), qtype),
            ];
            let n = spec.layout(qtype).unwrap().tile_bytes();
            for (gate, up) in pair[0].chunks_exact(n).zip(pair[1].chunks_exact(n)) {
                writer.write(i, gate).unwrap();
                writer.write(i + 1, up).unwrap();
            }
            i += 1;
        } else {
            writer
                .write(i, &tiles(spec, &floats, type_of(spec, qtype)))
                .unwrap();
        }
        i += 1;
    }
    writer
        .finish(&metadata(config).to_json().unwrap(), &[])
        .unwrap()
        .into_inner()
}

/// The model of that file.
pub(crate) fn model(bytes: &[u8], kernels: &'static Kernels) -> Arc<Model> {
    Arc::new(open(bytes, kernels).unwrap())
}

/// The same, not shared.
pub(crate) fn open(bytes: &[u8], kernels: &'static Kernels) -> Result<Model, ModelError> {
    let container = Container::from_bytes(bytes.to_vec()).unwrap();
    let options = ModelOptions {
        kernels: Some(kernels),
        ..ModelOptions::default()
    };
    Model::from_container(container, Path::new("tiny"), &options)
}

/// The same model by definition.
pub(crate) fn reference(variant: Variant, qtype: Option<QuantType>, kv_type: KvType) -> Reference {
    reference_of(&variant.config(), variant.seed(), qtype, kv_type)
}

/// The same of [`container_of`].
pub(crate) fn reference_of(
    config: &Config,
    seed: u64,
    qtype: Option<QuantType>,
    kv_type: KvType,
) -> Reference {
    Reference::new(config, kv_type, |spec| {
        let floats = weights(seed, spec);
        if spec.vector {
            return TensorData::Floats(floats);
        }
        let qtype = type_of(spec, qtype);
        TensorData::Tiles(qtype, tiles(spec, &floats, qtype))
    })
}

/// Some text, the same for ever.
pub(crate) fn text(config: &Config, n: usize) -> Vec<TokenId> {
    let mut rng = chaski_models::testing::Rng::new(42);
    (0..n)
        .map(|_| TokenId((rng.next_u64() % config.vocab_size as u64) as u32))
        .collect()
}
