//! Calibrated conversions and conversions to a size, by the one forward pass.

use std::{fs, num::NonZeroUsize, ops::ControlFlow, sync::Arc};

use chaski::{
    Model, ModelOptions, Session, SessionOptions, eval::Part, runner::CpuRunner,
    weights::HybridError,
};
use chaski_convert::{
    Calibration, CalibrationError, ConvertError, ConvertOptions, Event, Recipe, Report, Silent,
    Target, TypeOverride, allocate, convert, convert_with, source,
};
use chaski_models::{
    Role, TokenId,
    testing::{CheckpointOptions, FloatType, Variant, write_checkpoint},
};
use chaski_quant::{QuantType, container::Container};
use tempfile::TempDir;

use crate::{sensitivity, tiny};

pub(crate) fn checkpoint(variant: Variant, float_type: FloatType) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = CheckpointOptions {
        float_type,
        ..CheckpointOptions::default()
    };
    write_checkpoint(&dir.path().join("tiny"), variant, &options).unwrap();
    dir
}

pub(crate) fn options(recipe: &str, text: Option<Calibration>) -> ConvertOptions {
    ConvertOptions {
        calibration: text,
        ..ConvertOptions::new(Recipe::named(recipe).unwrap())
    }
}

/// The beginning of the text that ships with the program: all of it takes the oracle's level minutes.
fn short_text() -> Calibration {
    let whole = Calibration::built_in();
    let text: String = whole.text().chars().take(1500).collect();
    Calibration::new("short", text).unwrap()
}

/// Converts the checkpoint in `dir` on so many threads.
pub(crate) fn converted(
    dir: &TempDir,
    options: &ConvertOptions,
    threads: usize,
) -> (Vec<u8>, Report) {
    let threads = NonZeroUsize::new(threads);
    let mut runner = CpuRunner::new(threads).unwrap();
    let options = ConvertOptions {
        threads,
        force: true,
        ..options.clone()
    };
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let path = dir.path().join("out.chaski");
    let report = convert_with(&*source, &path, &options, &mut runner, &Silent).unwrap();
    (fs::read(&path).unwrap(), report)
}

#[test]
fn calibrated_files_are_the_same_bytes_at_any_number_of_threads() {
    let text = || Some(short_text());
    for (variant, recipe) in [
        (Variant::Llama, "q4"),
        (Variant::LlamaUntied, "q4h"),
        (Variant::Qwen2Window, "q5"),
        (Variant::Qwen3, "q4"),
        (Variant::Qwen2, "q8"),
    ] {
        let dir = checkpoint(variant, FloatType::BF16);
        let (one, report) = converted(&dir, &options(recipe, text()), 1);
        for threads in [2, 4] {
            let (other, _) = converted(&dir, &options(recipe, text()), threads);
            assert!(one == other, "{variant:?} on {threads} threads");
        }
        let (plain, uncalibrated) = converted(&dir, &options(recipe, None), 1);
        assert_ne!(one, plain);
        // As many weights as before in as many bytes, no tile twice and none left out.
        assert_eq!(report.n_weights, uncalibrated.n_weights);
        for (a, b) in report.roles.iter().zip(&uncalibrated.roles) {
            assert_eq!(
                (a.role, a.n_weights, a.bytes),
                (b.role, b.n_weights, b.bytes)
            );
            // Feedback trades error of weights for that of outputs, within bounds.
            assert!(
                a.error.relative_rms < 3.0 * b.error.relative_rms + 1e-9,
                "{:?}",
                a.role
            );
        }
        let container = Container::from_bytes(one).unwrap();
        container.verify(|_, _| {}).unwrap();
        assert!(container.metadata().contains("\"sha256 "));
        // Only fine weights are balanced.
        let is_balanced = container.metadata().contains("\"balance\"");
        assert_eq!(is_balanced, recipe == "q8");
    }
}

#[test]
fn the_type_of_the_source_does_not_matter() {
    let text = || Some(short_text());
    let data = |float_type| {
        let dir = checkpoint(Variant::Qwen2, float_type);
        let container =
            Container::from_bytes(converted(&dir, &options("q4", text()), 2).0).unwrap();
        container.bytes()[container.data_range()].to_vec()
    };
    let f32 = data(FloatType::F32);
    assert!(f32 == data(FloatType::BF16));
    assert!(f32 == data(FloatType::F16));
}

#[test]
fn texts_that_say_nothing_are_refused() {
    let new = |text: &str| Calibration::new("t.txt", text.to_owned());
    assert!(matches!(new(""), Err(CalibrationError::Empty { .. })));
    assert!(matches!(new(" \n\t "), Err(CalibrationError::Empty { .. })));
    assert!(matches!(
        new("PK\u{3}\0\0"),
        Err(CalibrationError::NotText { at: 3, .. })
    ));
    let dir = checkpoint(Variant::Llama, FloatType::F32);
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let path = dir.path().join("out.chaski");
    let mut runner = CpuRunner::new(NonZeroUsize::new(1)).unwrap();
    let short = options("q4", Some(new("a few words").unwrap()));
    let error = convert_with(&*source, &path, &short, &mut runner, &Silent).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("t.txt") && said.contains("at least 128"),
        "{said}"
    );
    // Nobody to run the model.
    let error = convert(&*source, &path, &short, &Silent).unwrap_err();
    assert!(matches!(error, ConvertError::NoRunner));
    // A long text is read up to its limit, also where its characters are long.
    let long = options(
        "q4",
        Some(new(&"\u{1f980} \u{301}".repeat(700_000)).unwrap()),
    );
    convert_with(&*source, &path, &long, &mut runner, &Silent).unwrap();
    fs::remove_file(&path).unwrap();
    // Stopped in the middle, nothing is left.
    let stop = |event: Event<'_>| match event {
        Event::Calibrate { done: 1.., .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = convert_with(&*source, &path, &long, &mut runner, &stop).unwrap_err();
    assert!(matches!(error, ConvertError::Cancelled));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_size_is_kept_to_and_more_bytes_diverge_less() {
    let dir = checkpoint(Variant::LlamaUntied, FloatType::BF16);
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let plain = options("q4", None);
    let to = |kld: f64| {
        let correction = 1.0;
        Target::Kld { kld, correction }
    };
    let smallest = allocate(&*source, &plain, to(1e9)).unwrap();
    let largest = allocate(&*source, &plain, Target::Bytes(1 << 40)).unwrap();
    assert_eq!(smallest.types.keys().collect::<Vec<_>>(), [&QuantType::Q3]);
    // Some matrices stay as they are in the source, but a twentieth of the weights at most.
    let types = [QuantType::BF16, QuantType::Q8];
    assert_eq!(largest.types.keys().copied().collect::<Vec<_>>(), types);
    let config = source.config();
    let weights = |floats: bool| -> usize {
        let table = chaski_models::tensor_table(config);
        let matrices = table.iter().filter(|t| !t.vector);
        let of = matrices.filter(|t| {
            let qtype = largest.recipe.qtype_of(t.role, t.layer);
            !floats || !qtype.is_quantized()
        });
        of.map(|t| t.rows * t.cols).sum()
    };
    assert!(weights(true) > 0 && 20 * weights(true) <= weights(false));
    assert_eq!(largest.front, smallest.front);
    let front = &largest.front;
    assert!(front.is_sorted_by(|a, b| a.bytes < b.bytes && a.kld > b.kld));
    let mut kld = f64::INFINITY;
    for share in [0.1, 0.4, 0.7, 0.95] {
        let bytes = smallest.bytes as f64 * (1.0 - share) + largest.bytes as f64 * share;
        let chosen = allocate(&*source, &plain, Target::Bytes(bytes as u64)).unwrap();
        assert!(chosen.bytes <= bytes as u64, "{bytes}: {chosen:?}");
        assert!(chosen.kld < kld);
        kld = chosen.kld;
        let options = ConvertOptions {
            recipe: chosen.recipe.clone(),
            ..plain.clone()
        };
        let (file, report) = converted(&dir, &options, 2);
        assert!(file.len() as f64 <= bytes, "{} of {bytes}", file.len());
        Container::from_bytes(file).unwrap();
        let of = |role| report.roles.iter().filter(move |r| r.role == role);
        assert_eq!(
            of(Role::FfnGate).map(|r| r.qtype).collect::<Vec<_>>(),
            of(Role::FfnUp).map(|r| r.qtype).collect::<Vec<_>>()
        );
        // The same divergence asked for needs no more bytes.
        let again = allocate(&*source, &plain, to(chosen.kld * 1.001)).unwrap();
        assert!(again.kld <= chosen.kld * 1.001 && again.bytes <= chosen.bytes + (1 << 17));
    }
    let error = |target| allocate(&*source, &plain, target).unwrap_err().to_string();
    assert!(error(Target::Bytes(1000)).contains("the smallest one takes"));
    assert!(error(to(1e-12)).contains("--quant f16"));
    for kld in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(error(to(kld)).contains("positive number"));
    }
    // What was found to be twice what is predicted needs what half of it needs, and says what was asked.
    let kld = 2.0 * kld;
    let correction = 2.0;
    let corrected = allocate(&*source, &plain, Target::Kld { kld, correction }).unwrap();
    let half = allocate(&*source, &plain, to(kld / 2.0)).unwrap();
    assert_eq!(corrected.types, half.types);
    assert_eq!(corrected.recipe.target(), Some(&*format!("max-kld {kld}")));
}

#[test]
fn of_balanced_files_what_shares_channels_is_exchanged_together() {
    for variant in [Variant::Llama, Variant::LlamaUntied] {
        let dir = checkpoint(variant, FloatType::BF16);
        let write = |name: &str, options: &ConvertOptions| {
            let path = dir.path().join(name);
            fs::write(&path, converted(&dir, options, 1).0).unwrap();
            path
        };
        // Of Q8 in the down matrices alone the norms stay as they are, and would give nothing away.
        let down = TypeOverride {
            role: Role::FfnDown,
            qtype: QuantType::Q8,
        };
        let mut only_down = options("bf16", Some(short_text()));
        only_down.recipe = only_down.recipe.with_overrides(&[down]).unwrap();
        let only_down = write("down.chaski", &only_down);
        let all = write("all.chaski", &options("q8", Some(short_text())));
        let exact = write("exact.chaski", &options("bf16", None));
        let open = |path| Model::open(path, &ModelOptions::default()).unwrap();
        let exact = || open(&exact);
        let tokens = tiny::text(exact().config(), 20);
        let logits = |model: Model| logits_of(model, &tokens);

        assert!(!exact().is_balanced() && open(&all).is_balanced());
        for balanced in [&only_down, &all] {
            let single = |role, _| role == Role::FfnDown;
            let error = exact().with_matrices_of(open(balanced), single);
            assert_eq!(error.unwrap_err(), HybridError::Balanced);
            let whole = exact().with_matrices_of(open(balanced), |_, _| true);
            assert_eq!(logits(whole.unwrap()), logits(open(balanced)));
        }
        let norm = |path| open(path).weights().layer(0).attn_norm.clone();
        assert_ne!(norm(&all), exact().weights().layer(0).attn_norm);
        // Part after part, each of what the others are not.
        let parts = Part::all(exact().config(), true);
        let roles = parts.iter().filter(|p| !matches!(p, Part::Layer(_)));
        let mut one_by_one = exact();
        let far = distance(&logits(exact()), &logits(open(&all)));
        for part in roles {
            let has = |role, layer| part.has(role, layer);
            let alone = exact().with_matrices_of(open(&all), has).unwrap();
            // What was moved and stays without its counterpart would be far off.
            let near = distance(&logits(exact()), &logits(alone));
            assert!(near > 0.0 && near < 3.0 * far, "{part}: {near}, {far}");
            one_by_one = one_by_one.with_matrices_of(open(&all), has).unwrap();
        }
        assert_eq!(logits(one_by_one), logits(open(&all)));
    }
}

/// The logits after every token.
fn logits_of(model: Model, tokens: &[TokenId]) -> Vec<f32> {
    let options = SessionOptions {
        logit_rows: 4,
        ..SessionOptions::default()
    };
    let mut session = Session::new(&Arc::new(model), &options).unwrap();
    let mut all = Vec::new();
    let mut sink = |_, logits: &[f32]| all.extend_from_slice(logits);
    session.extend_with(tokens, 0, &mut sink).unwrap();
    all
}

/// The root of the mean square of what two lists differ by.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
fn what_is_done_is_told_in_its_order() {
    let dir = checkpoint(Variant::LlamaUntied, FloatType::F32);
    let source = source::open(&dir.path().join("tiny")).unwrap();
    let mut runner = CpuRunner::new(NonZeroUsize::new(1)).unwrap();
    let told = std::cell::RefCell::new(Vec::new());
    let watch = |event: Event<'_>| {
        let name = match event {
            Event::Note(_) => "note",
            Event::Balance { .. } => "balance",
            Event::Calibrate { .. } => "calibrate",
            Event::Start { .. } => "start",
            Event::Advance { .. } => "advance",
            Event::Finish => "finish",
            Event::Written(_) => "written",
            _ => "other",
        };
        told.borrow_mut().push(name);
        ControlFlow::Continue(())
    };
    let out = dir.path().join("out.chaski");
    let options = options("q8", Some(short_text()));
    convert_with(&*source, &out, &options, &mut runner, &watch).unwrap();
    let mut told = told.into_inner();
    told.dedup();
    told.retain(|&name| name != "note");
    let want = [
        "balance",
        "calibrate",
        "start",
        "advance",
        "finish",
        "written",
    ];
    assert_eq!(told, want);
}

#[test]
fn what_is_not_finite_is_named_by_its_own_layer() {
    let fails = |changes: &[(&str, f32)], recipe: &str| {
        let dir = checkpoint(Variant::Llama, FloatType::F32);
        for (name, by) in changes {
            sensitivity::scale(&dir, name, *by);
        }
        let source = source::open(&dir.path().join("tiny")).unwrap();
        let mut runner = CpuRunner::new(NonZeroUsize::new(1)).unwrap();
        let out = dir.path().join("out.chaski");
        let options = options(recipe, Some(short_text()));
        let error = convert_with(&*source, &out, &options, &mut runner, &Silent);
        assert!(!out.exists());
        error.unwrap_err().to_string()
    };
    let up = "model.layers.1.mlp.up_proj.weight";
    let down = "model.layers.0.mlp.down_proj.weight";
    for recipe in ["q4", "q8"] {
        let said = fails(&[(up, f32::NAN)], recipe);
        assert!(said.contains(up) && said.contains("NaN"), "{said}");
        // Weights that are finite, and hidden states that are not.
        let first = "model.layers.0.mlp.up_proj.weight";
        let said = fails(&[(first, 1e5), (down, 1e36)], recipe);
        assert!(said.contains("input of layer 1"), "{said}");
        let second = "model.layers.1.mlp.down_proj.weight";
        let said = fails(&[(up, 1e5), (second, 1e36)], recipe);
        assert!(said.contains("input of the head"), "{said}");
    }
}
