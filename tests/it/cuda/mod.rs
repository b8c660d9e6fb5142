//! Layers on a device: the same logits as on the CPU, bit for bit, wherever the layers are.
//!
//! [`device`] computes by definition, so what is tested here is the host side: which launches, with which arguments, over
//! which memory. That the kernels compute as defined is tested kernel by kernel.

mod cli;
mod device;
mod driver;
mod emulated;
mod kernels;
mod memory;
mod ptx;
mod real;
mod scripts;

use std::sync::Arc;

use chaski::{
    Model, Session, SessionError, SessionOptions as Options,
    backend::{
        GpuLayers, Placement,
        cuda::{CudaError, DeviceBytes, args::Kernel, bytes},
    },
};
use chaski_kernels_simd::Kernels;
use chaski_models::{BackendError, TokenId, reference::KvType, testing::Variant};
use chaski_quant::QuantType;

use crate::tiny;
use device::{Fault, by_definition};

/// More than any tiny model takes.
const PLENTY: usize = 1 << 30;

fn options(kv_type: KvType, gpu_layers: GpuLayers) -> Options {
    Options {
        context_len: Some(700),
        kv_type,
        ubatch: 96,
        threads: Some(2),
        logit_rows: 96,
        sequences: 3,
        gpu_layers,
        ..Options::default()
    }
}

fn model(variant: Variant, qtype: Option<QuantType>) -> Arc<Model> {
    tiny::model(&tiny::container(variant, qtype), Kernels::best())
}

fn on_device(model: &Arc<Model>, options: &Options) -> Session {
    Session::with_device(model, options, by_definition(PLENTY).0).unwrap()
}

/// Bits of logits.
#[derive(Default)]
struct Bits(Vec<u32>);

impl Bits {
    fn add(&mut self, logits: &[f32]) {
        self.0.extend(logits.iter().map(|l| l.to_bits()));
    }

    fn read(&mut self, session: &mut Session, tokens: &[TokenId], first: usize) {
        session
            .extend_with(tokens, first, &mut |_, logits| self.add(logits))
            .unwrap();
    }
}

/// All that a session does: long and short passes, going back, texts that share pages, several texts in one pass.
/// `first`: the first position of the text whose logits are taken.
fn all_logits(session: &mut Session, text: &[TokenId], first: usize) -> Vec<u32> {
    let mut bits = Bits::default();
    let (prompt, rest) = text.split_at(text.len() - 24);
    bits.read(session, prompt, first);
    for token in &rest[..6] {
        bits.read(session, &[*token], 0);
    }
    bits.read(session, &rest[6..14], 0);
    session.truncate(prompt.len() - 3);
    for token in &rest[2..8] {
        bits.read(session, &[*token], 0);
    }
    // Two more texts that go on from here, each with a page of its own where the text ends within one.
    session.fork(1).unwrap();
    session.fork(2).unwrap();
    for i in 8..20 {
        let step = [(2, rest[i]), (0, rest[i + 1]), (1, rest[i + 2])];
        session.step(&step[..1 + i % 3]).unwrap();
        for (seq, _) in &step[..1 + i % 3] {
            session.select(*seq).unwrap();
            bits.add(session.logits().unwrap());
        }
    }
    // A beginning that another text has.
    session.select(1).unwrap();
    session.set_text(&text[..prompt.len() / 2]).unwrap();
    bits.add(session.logits().unwrap());
    bits.0
}

/// Compares without printing megabytes.
fn assert_same(got: &[u32], want: &[u32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: number of logits");
    if let Some(i) = (0..got.len()).find(|&i| got[i] != want[i]) {
        let [got, want] = [got[i], want[i]].map(f32::from_bits);
        panic!("{what}: logit {i} is {got:e}, on the CPU {want:e}");
    }
}

#[test]
fn wherever_the_layers_are_the_logits_are_those_of_the_cpu() {
    for (i, variant) in Variant::ALL.into_iter().enumerate() {
        let model = model(variant, None);
        let text = tiny::text(model.config(), 100);
        let n_layers = model.config().n_layers;
        for (k, kv_type) in [KvType::F32, KvType::F16, KvType::Q8]
            .into_iter()
            .enumerate()
        {
            let mut cpu = Session::new(&model, &options(kv_type, GpuLayers::NONE)).unwrap();
            let want = all_logits(&mut cpu, &text, 0);
            for n in 0..=n_layers + 1 {
                // Every placement with one of the types, the others with all of the model.
                if k != i % 3 && n <= n_layers {
                    continue;
                }
                let mut session = on_device(&model, &options(kv_type, GpuLayers::Count(n)));
                assert_eq!(session.placement(), Placement::of_count(n_layers, n));
                assert_eq!(session.device().is_some(), n > 0);
                let got = all_logits(&mut session, &text, 0);
                assert_same(
                    &got,
                    &want,
                    &format!("{} {kv_type:?} -ngl {n}", variant.name()),
                );
            }
        }
    }
}

#[test]
fn every_type_of_weights_goes_on_the_device() {
    for qtype in QuantType::ALL.into_iter().filter(|t| *t != QuantType::Q3) {
        let model = model(Variant::LlamaUntied, Some(qtype));
        let text = tiny::text(model.config(), 60);
        let run = |gpu| {
            let options = options(KvType::F16, gpu);
            let mut session = match gpu {
                GpuLayers::Count(0) => Session::new(&model, &options).unwrap(),
                _ => on_device(&model, &options),
            };
            all_logits(&mut session, &text, 0)
        };
        assert_same(&run(GpuLayers::All), &run(GpuLayers::NONE), qtype.name());
    }
}

#[test]
fn contexts_of_several_spans_are_the_same_by_rows_and_by_slots() {
    for variant in Variant::ALL {
        let model = model(variant, Some(QuantType::Q4));
        let text = tiny::text(model.config(), 660);
        let first = 560;
        let mut cpu = Session::new(&model, &options(KvType::F16, GpuLayers::NONE)).unwrap();
        let want = all_logits(&mut cpu, &text, first);
        for ubatch in [8, 40, 96] {
            let options = Options {
                ubatch,
                ..options(KvType::F16, GpuLayers::All)
            };
            let (device, log) = by_definition(PLENTY);
            let mut session = Session::with_device(&model, &options, device).unwrap();
            let got = all_logits(&mut session, &text, first);
            assert_same(&got, &want, &format!("{} {ubatch} rows", variant.name()));
            let ran = |kernel| log.lock().unwrap().launches.contains(&kernel);
            assert!(ran(Kernel::Attend(KvType::F16)));
            assert_eq!(ran(Kernel::AttendRows(KvType::F16)), ubatch > 8);
        }
    }
}

#[test]
fn rounded_activations_are_rounded_on_the_device_too() {
    let model = model(Variant::Qwen3, Some(QuantType::F16));
    let text = tiny::text(model.config(), 60);
    let run = |gpu_layers: GpuLayers| {
        let options = Options {
            round_activations: true,
            ..options(KvType::F16, gpu_layers)
        };
        let mut session = match gpu_layers {
            GpuLayers::Count(0) => Session::new(&model, &options).unwrap(),
            _ => on_device(&model, &options),
        };
        all_logits(&mut session, &text, 0)
    };
    let want = run(GpuLayers::NONE);
    for gpu_layers in [GpuLayers::All, GpuLayers::Count(1)] {
        assert_same(&run(gpu_layers), &want, &gpu_layers.to_string());
    }
}

#[test]
fn decoding_is_recorded_once_for_each_number_of_spans() {
    let model = model(Variant::Llama, Some(QuantType::Q4));
    let text = tiny::text(model.config(), 640);
    let (device, log) = by_definition(PLENTY);
    let options = options(KvType::F16, GpuLayers::All);
    let mut session = Session::with_device(&model, &options, device).unwrap();
    session.extend(&text[..500]).unwrap();
    let counts = || {
        let log = log.lock().unwrap();
        (log.captures, log.replays)
    };
    let before = counts();
    for token in &text[500..512] {
        session.extend(&[*token]).unwrap();
    }
    // The first one runs as it is, the second is recorded and started, so are those after it.
    assert_eq!(counts(), (before.0 + 1, before.1 + 11));
    for token in &text[512..520] {
        session.extend(&[*token]).unwrap();
    }
    assert_eq!(counts(), (before.0 + 2, before.1 + 11 + 7));
    assert!(session.device_read_bandwidth().unwrap().unwrap() > 0.0);
    assert_eq!(counts().0, before.0 + 3);
}

#[test]
fn a_device_that_fails_is_named_and_never_a_panic() {
    let model = model(Variant::LlamaUntied, Some(QuantType::Q4));
    let text = tiny::text(model.config(), 40);
    let options = options(KvType::F16, GpuLayers::All);
    let made = |fault| {
        let (device, log) = by_definition(PLENTY);
        log.lock().unwrap().fault = fault;
        (Session::with_device(&model, &options, device), log)
    };
    let (session, log) = made(None);
    let n_calls = log.lock().unwrap().calls;
    drop(session);
    assert!(n_calls > 20, "{n_calls}");
    for fault in [Fault::Once, Fault::Lost] {
        for at in 1..=n_calls {
            match made(Some((at, fault))).0 {
                Err(SessionError::Cuda { gpu_layers, source }) => {
                    assert_eq!(gpu_layers, GpuLayers::All);
                    let CudaError::Device { name, .. } = &source else {
                        panic!("call {at}: {source}");
                    };
                    assert_eq!(name, "a device by definition");
                }
                other => panic!("call {at}: {other:?}"),
            }
        }
    }
    // The same in the middle of passes, long and short, recorded or not.
    let work = |session: &mut Session| -> Result<(), SessionError> {
        session.extend(&text[..30])?;
        session.fork(1)?;
        (30..36).try_for_each(|i| session.step(&[(0, text[i]), (1, text[i])]))
    };
    let (session, log) = made(None);
    let mut session = session.unwrap();
    work(&mut session).unwrap();
    let all_calls = log.lock().unwrap().calls;
    for at in (n_calls + 1..=all_calls).step_by(3).chain([all_calls]) {
        let (session, _log) = made(Some((at, Fault::Once)));
        let mut session = session.unwrap();
        let error = work(&mut session).unwrap_err();
        let SessionError::Backend(BackendError::Device { name, message }) = &error else {
            panic!("call {at}: {error:?}");
        };
        assert_eq!(name, "a device by definition");
        assert!(!message.is_empty());
        // What the device holds is not known any more: the session says so, to whatever is asked.
        session.clear();
        let again = session.extend(&text[..2]).unwrap_err();
        assert_eq!(again.to_string(), error.to_string(), "call {at}");
        assert!(matches!(
            again,
            SessionError::Backend(BackendError::Device { .. })
        ));
        assert!(session.device_read_bandwidth().is_err());
    }
}

#[test]
fn a_logit_that_is_not_finite_is_of_its_row_and_the_session_goes_on() {
    let model = crate::batch::broken_model();
    let text = tiny::text(model.config(), 9);
    for n in 1..=model.config().n_layers + 1 {
        let options = options(KvType::F32, GpuLayers::Count(n));
        let mut session = on_device(&model, &options);
        let error = session.extend_with(&text, 5, &mut |_, _| ()).unwrap_err();
        assert!(
            matches!(error, SessionError::NotFinite { pos: 5 }),
            "-ngl {n}: {error:?}"
        );
        // The pass did not happen; nothing else is amiss.
        assert!(session.tokens().is_empty());
        let error = session.extend(&text[..3]).unwrap_err();
        assert!(matches!(error, SessionError::NotFinite { pos: 2 }));
    }
}

fn taken(model: &Model, options: &Options, n: usize) -> DeviceBytes {
    let placement = Placement::of_count(model.config().n_layers, n);
    bytes(model.weights(), &limits(model, options), &placement)
}

fn limits(model: &Model, options: &Options) -> chaski::backend::cpu::PassLimits {
    *Session::new(
        &Arc::new(tiny::open(model.weights().container().bytes(), Kernels::best()).unwrap()),
        &Options {
            gpu_layers: GpuLayers::NONE,
            ..options.clone()
        },
    )
    .unwrap()
    .limits()
}

/// What `auto` leaves free.
const RESERVE: usize = 256 << 20;

#[test]
fn auto_puts_there_what_fits() {
    let model = model(Variant::LlamaUntied, Some(QuantType::Q4));
    let options = options(KvType::F16, GpuLayers::Auto);
    let n_layers = model.config().n_layers;
    let place = |free: usize| {
        let session = Session::with_device(&model, &options, by_definition(free).0).unwrap();
        (session.placement().count(), session.notes().to_vec())
    };
    assert_eq!(place(0).0, 0);
    for n in 1..=n_layers + 1 {
        let needed = RESERVE + taken(&model, &options, n).total() as usize;
        assert_eq!(place(needed - 1).0, n - 1, "{n} layers but for a byte");
        let (count, notes) = place(needed);
        assert_eq!((count, notes), (n, Vec::new()));
    }
    let (count, notes) = place(1 << 20);
    assert_eq!(count, 0);
    assert!(
        notes[0].contains("no layer fits on a device by definition"),
        "{notes:?}"
    );
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let model = model(Variant::LlamaUntied, Some(QuantType::Q4));
    let options = options(KvType::F16, GpuLayers::All);
    let all = taken(&model, &options, usize::MAX).total() as usize;
    let refused = |free: usize| {
        let made = Session::with_device(&model, &options, by_definition(free).0);
        match made {
            Err(SessionError::Cuda { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    };
    let CudaError::DoesNotFit {
        needed, free, fits, ..
    } = refused(all - 1)
    else {
        panic!("it was to be too much");
    };
    assert_eq!((needed as usize, free as usize, fits), (all, all - 1, 0));
    // Exactly as much as is said is taken.
    let (device, _) = by_definition(all + RESERVE);
    let session = Session::with_device(&model, &options, device).unwrap();
    let summary = session.device().unwrap();
    assert_eq!(summary.bytes.total() as usize, all);
    assert_eq!(summary.free as usize, all + RESERVE);
    let error = refused(1).to_string();
    assert!(error.contains("-ngl 0 fits"), "{error}");
}

#[test]
fn a_type_without_kernels_is_refused_by_name() {
    let model = model(Variant::LlamaUntied, Some(QuantType::Q3));
    let run =
        |gpu| Session::with_device(&model, &options(KvType::F16, gpu), by_definition(PLENTY).0);
    match run(GpuLayers::Count(1)) {
        Err(SessionError::Cuda { source, .. }) => {
            assert!(source.to_string().contains("type q3"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(run(GpuLayers::Auto).unwrap().placement().count(), 0);
}

#[test]
fn layers_on_the_device_take_no_keys_and_values_on_the_cpu() {
    let model = model(Variant::Llama, Some(QuantType::Q4));
    let planned = |gpu_layers| {
        let options = options(KvType::F16, gpu_layers);
        chaski::plan::plan(&model, &options).unwrap()
    };
    let (cpu, all) = (planned(GpuLayers::NONE), planned(GpuLayers::All));
    assert!(cpu.gpu.is_none());
    let gpu = all.gpu.unwrap();
    assert!(all.kv_cache < cpu.kv_cache / 20);
    assert_eq!(gpu.layers, model.config().n_layers);
    assert!(gpu.head && gpu.name.is_none());
    assert_eq!(gpu.total, gpu.bytes.total());
    let half = planned(GpuLayers::Count(1));
    assert_eq!(
        half.kv_cache - all.kv_cache,
        half.gpu.unwrap().bytes.kv_cache
    );
}
