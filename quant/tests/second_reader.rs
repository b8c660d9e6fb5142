//! The script `scripts/chaski_read.py`, written from the specification, agrees with the crate.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::{path::Path, process::Command};

use chaski_quant::{
    container::{Container, TensorKind},
    scalar::dequantize_tile,
};
use common::{build, tiny_file, zoo};

fn script(args: &[&str]) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/chaski_read.py");
    let output = Command::new("python3")
        .arg(script)
        .args(args)
        .output()
        .unwrap();
    let text = [
        output.stdout,
        if output.status.success() {
            Vec::new()
        } else {
            output.stderr
        },
    ];
    (
        output.status.success(),
        String::from_utf8(text.concat()).unwrap(),
    )
}

/// Whether there is a Python to run the script with.
fn has_python() -> bool {
    let found = Command::new("python3")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: there is no python3 on this machine");
    }
    found
}

fn write(dir: &Path, file: &[u8]) -> String {
    let path = dir.join("m.chaski");
    std::fs::write(&path, file).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_weight_of_every_type_is_equal() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = build(zoo(), &[], "{}", 5);
    let path = write(dir.path(), &file);
    let container = Container::from_bytes(file).unwrap();
    // A Python for each tensor: those of whole rows are the simplest and left out.
    for entry in container
        .tensors()
        .iter()
        .filter(|t| !t.name.starts_with("whole."))
    {
        let view = container.tensor(&entry.name).unwrap();
        let (want, cols): (Vec<f32>, usize) = match entry.kind {
            TensorKind::Vector { len } => (view.vector().unwrap(), len),
            TensorKind::Matrix(layout) => {
                let tiles = view.tiles().unwrap();
                let rows = (0..layout.n_tiles())
                    .flat_map(|t| dequantize_tile(&layout, t, tiles.tile(t)))
                    .collect();
                (rows, layout.cols())
            }
        };
        let (ok, text) = script(&["dequantize", &path, &entry.name]);
        assert!(ok, "{}: {text}", entry.name);
        let got: Vec<f32> = text
            .split_whitespace()
            .map(|w| w.parse().unwrap())
            .collect();
        assert_eq!(got.len(), want.len(), "{}", entry.name);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(
                got.to_bits(),
                want.to_bits(),
                "{}: {got} at {i}, not {want}",
                entry.name
            );
        }
        assert_eq!(text.lines().count() * cols, want.len());
        if !entry.name.starts_with("up.") {
            continue;
        }
        let (_, part) = script(&["dequantize", &path, &entry.name, "--rows", "20:23"]);
        let lines: Vec<&str> = text.lines().skip(20).take(3).collect();
        assert_eq!(part.lines().collect::<Vec<_>>(), lines, "{}", entry.name);
    }
}

#[test]
fn the_list_says_what_the_directory_says() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = build(zoo(), &[], "{}", 5);
    let path = write(dir.path(), &file);
    let container = Container::from_bytes(file).unwrap();
    let sections = container
        .sections()
        .iter()
        .map(|s| format!("section\t{}\t{}\t{}\n", s.kind, s.offset, s.len));
    let tensors = container.tensors().iter().map(|t| {
        let (qtype, shape, group) = match t.kind {
            TensorKind::Vector { len } => ("f32", len.to_string(), 1),
            TensorKind::Matrix(l) => (
                l.qtype().name(),
                format!("{}x{}", l.rows(), l.cols()),
                l.row_group(),
            ),
        };
        let (offset, stride) = (t.offset, t.tile_stride);
        format!(
            "tensor\t{}\t{qtype}\t{shape}\t{group}\t{offset}\t{stride}\t{:016x}\n",
            t.name, t.xxh3
        )
    });
    let want: String = sections.chain(tensors).collect();
    assert_eq!(script(&["list", &path]), (true, want));
}

#[test]
fn a_file_that_breaks_the_rules_is_refused() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = tiny_file();
    let cases: [(usize, u8, &str); 6] = [
        (0, 0, "not a chaski file"),
        (8, 2, "version is 2, expected 1"),
        (
            24 + 4,
            64,
            "offset of section data is 65600, expected 65536",
        ),
        (600, 1, "padding before section data is b'\\x01'"),
        (
            24 + 2 * 28,
            99,
            "section kind-99 is unknown and not optional",
        ),
        (
            0x108c0 + 8 + 36,
            1,
            "tile stride of norm is 0, expected 2048",
        ),
    ];
    for (at, value, want) in cases {
        let mut file = file.clone();
        file[at] = value;
        common::sign(&mut file);
        let (ok, text) = script(&["list", &write(dir.path(), &file)]);
        assert!(!ok && text.contains(want), "{text}, expected {want}");
    }
    let longer = [&file[..], &[0]].concat();
    let (ok, text) = script(&["list", &write(dir.path(), &longer)]);
    assert!(
        !ok && text.contains("length of the file is 68198, expected 68197"),
        "{text}"
    );
    let (ok, _) = script(&["list", &write(dir.path(), &file[..file.len() - 1])]);
    assert!(!ok);
    let (ok, text) = script(&["dequantize", &write(dir.path(), &file), "none"]);
    assert!(!ok && text.contains("a tensor none is False"), "{text}");
}
