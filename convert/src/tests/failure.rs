//! A conversion that fails says why and leaves nothing behind.

use std::{cell::Cell, fs, ops::ControlFlow, path::Path};

use chaski_quant::container::{Container, ContainerError};
use safetensors::Dtype;

use super::{
    checkpoint::{Checkpoint, names},
    conversion::options,
};
use crate::{ConvertError, ConvertOptions, Event, Note, Silent, convert, plan, source};

/// The error of converting the checkpoint in `dir`, after a look whether anything was left behind.
fn error(dir: &Path, options: &ConvertOptions) -> ConvertError {
    let out = tempfile::tempdir().unwrap();
    let source = source::open(dir).unwrap();
    let err = convert(&*source, &out.path().join("out.chaski"), options, &Silent).unwrap_err();
    assert_eq!(names(out.path()), [""; 0], "{err}");
    err
}

#[test]
fn weights_that_are_not_finite_are_named_with_their_place() {
    struct Case {
        tensor: &'static str,
        at: usize,
        value: f32,
        row: usize,
        col: usize,
    }
    let cases = [
        Case {
            tensor: "model.layers.1.mlp.down_proj.weight",
            at: 17 * 56 + 5,
            value: f32::NAN,
            row: 17,
            col: 5,
        },
        Case {
            tensor: "model.layers.0.self_attn.k_proj.weight",
            at: 39 * 48,
            value: f32::INFINITY,
            row: 39,
            col: 0,
        },
        Case {
            tensor: "model.norm.weight",
            at: 47,
            value: f32::NEG_INFINITY,
            row: 0,
            col: 47,
        },
    ];
    for case in cases {
        for recipe in ["q4", "q8", "f16", "f32"] {
            for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
                let mut checkpoint = Checkpoint::new(dtype, true);
                checkpoint.tensors.get_mut(case.tensor).unwrap().values[case.at] = case.value;
                let err = error(checkpoint.write().path(), &options(recipe));
                let ConvertError::NotFinite {
                    tensor,
                    row,
                    col,
                    value,
                } = &err
                else {
                    panic!("{recipe}: {err:?}")
                };
                assert_eq!(
                    (&**tensor, *row, *col),
                    (case.tensor, case.row, case.col),
                    "{recipe}"
                );
                assert_eq!(value.is_nan(), case.value.is_nan());
                assert!(err.to_string().contains(case.tensor), "{err}");
            }
        }
    }
}

#[test]
fn an_existing_file_is_only_replaced_by_force() {
    let dir = Checkpoint::new(Dtype::BF16, true).write();
    let source = source::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.chaski");
    fs::write(&path, b"precious").unwrap();
    let err = convert(&*source, &path, &options("q4"), &Silent).unwrap_err();
    assert!(
        matches!(err, ConvertError::Container(ContainerError::Exists { .. })),
        "{err}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let force = ConvertOptions {
        force: true,
        ..options("q4")
    };
    // A forced conversion that fails leaves the old file, too.
    let stop = |_: Event<'_>| ControlFlow::Break(());
    assert!(convert(&*source, &path, &force, &stop).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    convert(&*source, &path, &force, &Silent).unwrap();
    Container::open(&path).unwrap().verify(|_, _| {}).unwrap();
    assert_eq!(names(out.path()), ["out.chaski"]);
}

#[test]
fn a_conversion_can_be_stopped_at_every_event() {
    let dir = Checkpoint::new(Dtype::BF16, true).write();
    let source = source::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.chaski");
    let mut stopped = 0;
    loop {
        let events = Cell::new(0);
        let progress = |_: Event<'_>| {
            events.set(events.get() + 1);
            if events.get() > stopped {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        match convert(&*source, &path, &options("q4"), &progress) {
            Err(ConvertError::Cancelled) => {
                assert_eq!(names(out.path()), [""; 0], "stopped at event {stopped}");
            }
            Ok(_) => break,
            Err(err) => panic!("{err:?}"),
        }
        stopped += 1;
    }
    // A note (no template), the start, an advance, the finish.
    assert!(stopped >= 4, "{stopped} events");
    assert_eq!(names(out.path()), ["out.chaski"]);
}

#[test]
fn progress_counts_the_bytes_of_the_source() {
    let dir = Checkpoint::new(Dtype::BF16, true).write();
    let source = source::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let (total, done) = (Cell::new(0), Cell::new(0));
    let progress = |event: Event<'_>| {
        match event {
            Event::Start { source_bytes, .. } => total.set(source_bytes),
            Event::Advance {
                source_bytes,
                tensor,
            } => {
                assert!(source_bytes > done.get() && !tensor.is_empty());
                done.set(source_bytes);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    convert(&*source, &out.path().join("out"), &options("q4"), &progress).unwrap();
    let all: u64 = source.tensors().iter().map(|t| t.bytes).sum();
    assert_eq!((total.get(), done.get()), (all, all));
}

#[test]
fn a_missing_tokenizer_is_an_error_unless_allowed() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    checkpoint.texts.clear();
    let dir = checkpoint.write();
    let err = error(dir.path(), &options("q4"));
    assert!(matches!(err, ConvertError::NoTokenizer(_)), "{err:?}");
    assert!(err.to_string().contains("--no-tokenizer"), "{err}");
    assert!(plan(&*source::open(dir.path()).unwrap(), &options("q4")).is_err());

    let allowed = ConvertOptions {
        allow_missing_tokenizer: true,
        ..options("q4")
    };
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.chaski");
    let source = source::open(dir.path()).unwrap();
    let report = convert(&*source, &path, &allowed, &Silent).unwrap();
    assert!(report.notes.contains(&Note::NoTokenizer));
    let container = Container::open(&path).unwrap();
    assert!(
        container.metadata().contains("no tokenizer"),
        "the file says so itself"
    );
    assert_eq!(container.sections().len(), 3);

    fs::write(dir.path().join("tokenizer.model"), b"\x0a").unwrap();
    let err = error(dir.path(), &options("q4"));
    assert!(
        err.to_string().contains("tokenizer.model is not read"),
        "{err}"
    );
}

#[test]
fn a_tokenizer_that_is_not_understood_is_an_error() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    checkpoint
        .texts
        .insert("tokenizer.json".to_owned(), "{".to_owned());
    let err = error(checkpoint.write().path(), &options("q4"));
    assert!(matches!(err, ConvertError::Tokenizer(_)), "{err:?}");
}

#[test]
fn ids_beyond_the_vocabulary_are_found_before_the_work_is_done() {
    let mut checkpoint = Checkpoint::new(Dtype::BF16, true);
    checkpoint.texts.insert(
        "generation_config.json".to_owned(),
        r#"{"eos_token_id": 70}"#.to_owned(),
    );
    let err = error(checkpoint.write().path(), &options("q4"));
    assert!(matches!(err, ConvertError::Metadata(_)), "{err:?}");
}

#[test]
fn a_source_that_shrinks_is_an_error() {
    let checkpoint = Checkpoint::new(Dtype::BF16, true);
    let dir = checkpoint.write();
    let source = source::open(dir.path()).unwrap();
    let file = dir.path().join("model.safetensors");
    let len = fs::metadata(&file).unwrap().len();
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(len - 1)
        .unwrap();
    let out = tempfile::tempdir().unwrap();
    let err = convert(&*source, &out.path().join("out"), &options("q4"), &Silent).unwrap_err();
    assert!(matches!(err, ConvertError::Source(_)), "{err:?}");
    assert_eq!(names(out.path()), [""; 0]);
}
