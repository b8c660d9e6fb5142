//! What errors of each matrix matter, measured by the one forward pass.

use std::{fs, num::NonZeroUsize, ops::ControlFlow, sync::Arc};

use chaski::{Model, ModelOptions, Session, SessionOptions, eval::Position, runner::CpuRunner};
use chaski_convert::{
    Allocation, Calibration, ConvertError, ConvertOptions, Event, Recipe, Sensitivities, Silent,
    Target, TypeOverride, allocate, allocate_with, measure, source,
};
use chaski_models::{
    Role, TokenId,
    testing::{FloatType, Variant},
    tokenizer::Specials,
};
use chaski_quant::{QuantType, container::Container, scalar::attention::KvType};
use tempfile::TempDir;

use crate::calibrate::{checkpoint, converted, options};

/// Multiplies the values of a tensor of the F32 checkpoint in `dir`.
pub(crate) fn scale(dir: &TempDir, name: &str, by: f32) {
    let path = dir.path().join("tiny/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let at = |i: usize| 8 + len + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
    for x in bytes[at(0)..at(1)].as_chunks_mut::<4>().0 {
        *x = (f32::from_le_bytes(*x) * by).to_le_bytes();
    }
    fs::write(path, bytes).unwrap();
}

fn measured(dir: &TempDir, threads: usize) -> Sensitivities {
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let threads = NonZeroUsize::new(threads);
    let mut runner = CpuRunner::new(threads).unwrap();
    let text = Calibration::built_in();
    measure(&*source, &text, threads, &mut runner, &Silent).unwrap()
}

#[test]
fn sensitivities_are_of_every_matrix_and_the_same_at_any_number_of_threads() {
    for (variant, float_type) in [
        (Variant::Llama, FloatType::BF16),
        (Variant::LlamaUntied, FloatType::F32),
        (Variant::Qwen2Window, FloatType::F16),
    ] {
        let dir = checkpoint(variant, float_type);
        let one = measured(&dir, 1);
        assert!(one.positions() > 100);
        for threads in [2, 5] {
            assert_eq!(
                measured(&dir, threads),
                one,
                "{variant:?}, {threads} threads"
            );
        }
        let mut table = chaski_models::tensor_table(&variant.config());
        table.retain(|t| !t.vector);
        for spec in &table {
            let kld = one.of(spec.role, spec.layer);
            assert!(kld.is_some_and(|kld| kld > 0.0), "{}: {kld:?}", spec.name);
        }
        assert_eq!(one.of(Role::FfnUp, Some(1)), one.of(Role::FfnGate, Some(1)));
        assert!(one.of(Role::Output, None) > Some(0.0));
        assert_eq!(one.of(Role::AttnQ, Some(9)), None);
    }
}

#[test]
fn a_sensitivity_is_what_the_model_with_that_matrix_in_q4_diverges() {
    for variant in [Variant::LlamaUntied, Variant::Qwen3] {
        let dir = checkpoint(variant, FloatType::F32);
        let measured = measured(&dir, 2);
        let file = |recipe: Recipe| converted(&dir, &ConvertOptions::new(recipe), 1).0;
        let exact = file(Recipe::named("f32").unwrap());
        let all = chaski_models::tensor_table(&variant.config());
        let mut q4: Vec<_> = all.iter().filter(|t| !t.vector).collect();
        let in_q4 = q4.iter().map(|t| TypeOverride {
            role: t.role,
            qtype: QuantType::Q4,
        });
        let in_q4: Vec<_> = in_q4.collect();
        let q4_file = file(
            Recipe::named("f32")
                .unwrap()
                .with_overrides(&in_q4)
                .unwrap(),
        );
        let open = |file: &[u8]| {
            let container = Container::from_bytes(file.to_vec()).unwrap();
            Model::from_container(container, dir.path(), &ModelOptions::default()).unwrap()
        };
        let tokenizer = open(&exact).tokenizer().unwrap().tokenizer;
        // The pieces as they are said to be: 3 of 64 tokens, the text's first and last ones among them, of
        // which the first 16 are not compared.
        let text = Calibration::built_in();
        let tokens = tokenizer.encode(text.text(), Specials::AsText).unwrap();
        let bos = tokenizer.bos();
        let own = 64 - usize::from(bos.is_some());
        let piece = |i: usize| {
            let at = i * (tokens.len() - own) / 2;
            let tokens = tokens[at..at + own].iter().copied();
            bos.into_iter().chain(tokens).collect::<Vec<_>>()
        };
        let logits = |model: Model| {
            let options = SessionOptions {
                context_len: Some(64),
                kv_type: KvType::F32,
                ..SessionOptions::default()
            };
            let mut session = Session::new(&Arc::new(model), &options).unwrap();
            let mut rows: Vec<Vec<f32>> = Vec::new();
            for i in 0..3 {
                session.clear();
                let mut keep = |_: usize, logits: &[f32]| rows.push(logits.to_vec());
                session.extend_with(&piece(i), 16, &mut keep).unwrap();
            }
            rows
        };
        let reference = logits(open(&exact));
        assert_eq!(reference.len(), measured.positions());
        // Gate stands for both; a tied matrix is measured as two.
        let tied = variant.config().tied_embeddings;
        q4.retain(|t| t.role != Role::FfnUp && !(tied && t.role == Role::TokenEmbd));
        assert!(q4.len() > 12);
        for spec in q4 {
            let is_it = |role, layer| (role, layer) == (spec.role, spec.layer);
            let with = open(&exact)
                .with_matrices_of(open(&q4_file), is_it)
                .unwrap();
            let rows = logits(with);
            let klds = reference.iter().zip(&rows).map(|(p, q)| {
                let next = TokenId(0);
                Position::score(p, q, next, &mut Vec::new()).kl_divergence
            });
            let want = klds.sum::<f64>() / reference.len() as f64;
            let got = measured.of(spec.role, spec.layer).unwrap();
            assert!(
                (got / want - 1.0).abs() < 1e-9,
                "{}: {got} for {want}",
                spec.name
            );
        }
    }
}

#[test]
fn a_matrix_that_matters_more_gets_a_larger_type() {
    let plain = checkpoint(Variant::Llama, FloatType::F32);
    let dir = checkpoint(Variant::Llama, FloatType::F32);
    scale(&dir, "model.layers.0.mlp.down_proj.weight", 0.02);
    let of = |s: &Sensitivities, layer| s.of(Role::FfnDown, Some(layer)).unwrap();
    let (before, after) = (measured(&plain, 2), measured(&dir, 2));
    assert!(of(&before, 0) > 5.0 * of(&after, 0), "{before:?} {after:?}");
    assert!(of(&after, 1) > 5.0 * of(&after, 0), "{after:?}");

    let source = source::open(&dir.path().join("tiny")).unwrap();
    let options = options("q4", None);
    let largest = allocate(&*source, &options, Target::Bytes(1 << 40)).unwrap();
    let smallest = largest.front[0].bytes;
    let middle = Target::Bytes((3 * smallest + largest.bytes) / 4);
    let by_role = allocate(&*source, &options, middle).unwrap();
    let by_matrix = allocate_with(&*source, &options, &after, middle).unwrap();
    let bits = |a: &Allocation, layer| {
        let qtype = a.recipe.qtype_of(Role::FfnDown, Some(layer));
        qtype.bits_per_weight()
    };
    // The factor of its role knows nothing of it: the errors relative to the weights are the same.
    assert_eq!(bits(&by_role, 0), bits(&by_role, 1));
    assert!(bits(&by_matrix, 1) > bits(&by_matrix, 0), "{by_matrix:?}");
    let said = |a: &Allocation| a.recipe.sensitivities().map(str::to_owned);
    assert_eq!(said(&by_role).as_deref(), Some("of roles"));
    let positions = after.positions();
    let want = format!("of matrices, measured on {positions} positions");
    assert_eq!(said(&by_matrix), Some(want));
    // What each alone was found to make in Q4, together; all in Q3 err some four times as much.
    let sum: f64 = [Role::TokenEmbd, Role::Output]
        .map(|role| after.of(role, None).unwrap())
        .into_iter()
        .chain((0..2).flat_map(|layer| {
            let roles = [
                Role::AttnQ,
                Role::AttnK,
                Role::AttnV,
                Role::AttnOut,
                Role::FfnUp,
                Role::FfnDown,
            ];
            roles.map(|role| after.of(role, Some(layer)).unwrap())
        }))
        .sum();
    let predicted = by_matrix.front[0].kld;
    assert!((3.0..6.0).contains(&(predicted / sum)), "{predicted} {sum}");
    // Those of another model have nothing of all matrices.
    let deeper = checkpoint(Variant::Qwen2Window, FloatType::F32);
    let deeper = source::open(&deeper.path().join("tiny")).unwrap();
    let error = allocate_with(&*deeper, &options, &after, Target::Bytes(1 << 40)).unwrap_err();
    assert!(error.to_string().contains("blk.2."), "{error}");
}

#[test]
fn measuring_is_stopped_and_refuses_what_calibration_refuses() {
    let dir = checkpoint(Variant::Llama, FloatType::F32);
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let mut runner = CpuRunner::new(NonZeroUsize::new(1)).unwrap();
    let text = Calibration::built_in();
    let (mut last, mut steps) = (0, 0);
    let seen = std::cell::RefCell::new((&mut last, &mut steps));
    let watch = |event: Event<'_>| {
        if let Event::Measure { done, of, memory } = event {
            let (last, steps) = &mut *seen.borrow_mut();
            assert!((**last..=of).contains(&done) && memory > 0);
            (**last, **steps) = (done, **steps + 1);
        }
        ControlFlow::Continue(())
    };
    measure(&*source, &text, None, &mut runner, &watch).unwrap();
    assert!(steps > 20 && last > 0);
    // Stopped at the begin, among the layers, and in the head.
    for share in [0, 1, 40, 90, 99] {
        let stop = |event: Event<'_>| match event {
            Event::Measure { done, of, .. } if 100 * done >= share * of => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let error = measure(&*source, &text, None, &mut runner, &stop).unwrap_err();
        assert!(matches!(error, ConvertError::Cancelled), "{share}: {error}");
    }
    let short = Calibration::new("t.txt", "a few words".to_owned()).unwrap();
    let error = measure(&*source, &short, None, &mut runner, &Silent).unwrap_err();
    assert!(error.to_string().contains("at least 128"), "{error}");
    // A model that computes what is not finite.
    scale(&dir, "model.layers.0.mlp.up_proj.weight", 1e5);
    scale(&dir, "model.layers.0.mlp.down_proj.weight", 1e36);
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let error = measure(&*source, &text, None, &mut runner, &Silent).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
}
