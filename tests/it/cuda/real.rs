//! Whole models on a GPU, where there is one: the CPU's logits, bit for bit. `scripts/gpu-check.sh` runs these and more.

use std::sync::Arc;

use chaski::{
    Model, Session, SessionOptions as Options,
    backend::{GpuLayers, cuda::open},
};
use chaski_models::{reference::KvType, testing::Variant};
use chaski_quant::QuantType;

use super::{all_logits, assert_same, model, options};
use crate::tiny;

/// Whether there is a GPU; says why not. `CHASKI_EXPECT_GPU`: there must be one.
#[expect(clippy::print_stdout, reason = "what is not tested is to be seen")]
fn is_there() -> bool {
    match open() {
        Ok(_) => true,
        Err(error) => {
            assert!(
                std::env::var_os("CHASKI_EXPECT_GPU").is_none(),
                "CHASKI_EXPECT_GPU is set, but {error}"
            );
            println!("skipped: {error}");
            false
        }
    }
}

fn check(model: &Arc<Model>, options: &Options, gpu_layers: &[GpuLayers], n: usize, what: &str) {
    let text = tiny::text(model.config(), n);
    let first = n.saturating_sub(100);
    let run = |gpu_layers| {
        let options = Options {
            gpu_layers,
            ..options.clone()
        };
        all_logits(&mut Session::new(model, &options).unwrap(), &text, first)
    };
    let want = run(GpuLayers::NONE);
    for &gpu_layers in gpu_layers {
        assert_same(
            &run(gpu_layers),
            &want,
            &format!("{what} -ngl {gpu_layers}"),
        );
    }
}

#[test]
fn every_variant_is_on_the_gpu_as_on_the_cpu() {
    if !is_there() {
        return;
    }
    for variant in Variant::ALL {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
            let what = format!("{} {kv_type:?}", variant.name());
            let gpu_layers = [GpuLayers::Count(1), GpuLayers::All];
            let options = options(kv_type, GpuLayers::NONE);
            check(&model(variant, None), &options, &gpu_layers, 100, &what);
        }
    }
}

#[test]
fn every_type_is_on_the_gpu_as_on_the_cpu_over_several_spans() {
    if !is_there() {
        return;
    }
    for qtype in QuantType::ALL.into_iter().filter(|t| *t != QuantType::Q3) {
        for ubatch in [8, 96] {
            let options = Options {
                ubatch,
                ..options(KvType::F16, GpuLayers::NONE)
            };
            let model = model(Variant::LlamaUntied, Some(qtype));
            let what = format!("{qtype} {ubatch} rows");
            check(&model, &options, &[GpuLayers::All], 660, &what);
        }
    }
}
