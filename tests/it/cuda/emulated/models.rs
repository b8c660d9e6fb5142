//! Whole models over the kernels' source: the CPU's logits, bit for bit. What a pass is and when launches are recorded is
//! tested over the device that computes by definition; here less of everything, since each thread of each block is walked.

use std::sync::Arc;

use chaski::{Model, Session, SessionOptions as Options, backend::GpuLayers};
use chaski_kernels_simd::Kernels;
use chaski_models::{TokenId, reference::KvType, testing::Variant};
use chaski_quant::QuantType;

use super::super::{
    Bits, assert_same,
    device::{self, Shared},
    model, options,
};
use crate::{shapes::SIZES, tiny};

/// A session all on the emulated device; none where there is no C++ compiler.
fn emulated(model: &Arc<Model>, options: &Options) -> Option<(Session, Shared)> {
    let (device, log) = device::emulated(1 << 30)?;
    let session = Session::with_device(model, options, device).unwrap();
    Some((session, log))
}

/// A prompt, single tokens (recorded from the second on), several texts at once, and one that shares a beginning.
fn some_logits(session: &mut Session, text: &[TokenId], first: usize) -> Vec<u32> {
    let mut bits = Bits::default();
    let (prompt, rest) = text.split_at(text.len() - 8);
    bits.read(session, prompt, first);
    for token in &rest[..3] {
        bits.read(session, &[*token], 0);
    }
    session.fork(1).unwrap();
    for i in 3..5 {
        let step = [(1, rest[i]), (0, rest[i + 1])];
        session.step(&step).unwrap();
        for (seq, _) in &step {
            session.select(*seq).unwrap();
            bits.add(session.logits().unwrap());
        }
    }
    session.truncate(prompt.len() / 2);
    bits.read(session, &rest[5..8], 0);
    bits.0
}

fn check(model: &Arc<Model>, options: &Options, text: &[TokenId], first: usize, what: &str) {
    let on_cpu = Options {
        gpu_layers: GpuLayers::NONE,
        ..options.clone()
    };
    let mut cpu = Session::new(model, &on_cpu).unwrap();
    let want = some_logits(&mut cpu, text, first);
    let Some((mut session, log)) = emulated(model, options) else {
        return;
    };
    let got = some_logits(&mut session, text, first);
    assert_same(&got, &want, what);
    assert!(
        log.lock().unwrap().replays > 0,
        "{what}: nothing was recorded"
    );
}

#[test]
fn every_variant_gives_the_logits_of_the_cpu() {
    for (i, variant) in Variant::ALL.into_iter().enumerate() {
        // Matrices of all types.
        let model = model(variant, None);
        let text = tiny::text(model.config(), 78);
        let kv_type = [KvType::F16, KvType::Q8, KvType::F32][i % 3];
        let options = options(kv_type, GpuLayers::All);
        let what = format!("{} {kv_type:?}", variant.name());
        check(&model, &options, &text, 66, &what);
    }
}

#[test]
fn every_type_of_weights_gives_the_logits_of_the_cpu() {
    for qtype in QuantType::ALL.into_iter().filter(|t| *t != QuantType::Q3) {
        let model = model(Variant::LlamaUntied, Some(qtype));
        let text = tiny::text(model.config(), 30);
        let options = options(KvType::F16, GpuLayers::Count(2));
        check(&model, &options, &text, 0, qtype.name());
    }
}

#[test]
fn a_context_of_two_spans_gives_the_logits_of_the_cpu() {
    for (variant, ubatch) in [(Variant::Qwen2Window, 96), (Variant::Qwen3, 96)] {
        let model = model(variant, Some(QuantType::Q4));
        let text = tiny::text(model.config(), 530);
        let options = Options {
            ubatch,
            ..options(KvType::F16, GpuLayers::Count(1))
        };
        check(&model, &options, &text, 500, variant.name());
    }
}

#[test]
fn rounded_activations_give_the_logits_of_the_cpu() {
    let model = model(Variant::Qwen3, Some(QuantType::F16));
    let text = tiny::text(model.config(), 24);
    let options = Options {
        round_activations: true,
        ..options(KvType::F16, GpuLayers::All)
    };
    check(&model, &options, &text, 0, "rounded");
}

#[test]
fn odd_widths_and_groups_give_the_logits_of_the_cpu() {
    for (i, sizes) in SIZES.iter().enumerate() {
        let config = sizes.config();
        let bytes = tiny::container_of(&config, i as u64, None);
        let model = tiny::model(&bytes, Kernels::best());
        let text = tiny::text(&config, 50);
        let kv_type = [KvType::Q8, KvType::F16, KvType::F32][i % 3];
        let options = options(kv_type, GpuLayers::All);
        check(
            &model,
            &options,
            &text,
            40,
            &format!("shape {i} {kv_type:?}"),
        );
    }
}
