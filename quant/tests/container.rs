//! Files that are written, read, verified, damaged and renewed.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::{io::Cursor, path::Path};

use chaski_quant::{
    QuantType, TileRun,
    container::{
        AtomicFile, Container, ContainerError, ContainerWriter, DATA_ALIGN, DataPlan, Section,
        SectionKind, TensorDecl, TensorKind, rewrite_metadata,
    },
};
use common::{
    TINY_METADATA, build, from_hex, matrix, random_tile, tiny, tiny_file, to_hex, vector, zoo,
};

fn verify(file: &[u8]) -> Result<(), ContainerError> {
    Container::from_bytes(file.to_vec())?.verify(|_, _| {})
}

#[test]
fn what_is_written_is_read() {
    let tokenizer = vec![7; 1000];
    let sections = [
        Section {
            kind: SectionKind::Tokenizer,
            bytes: &tokenizer,
        },
        Section {
            kind: SectionKind::Other(77),
            bytes: b"",
        },
    ];
    let (decls, metadata) = (zoo(), r#"{"name": "zoo"}"#);
    let file = build(decls.clone(), &sections, metadata, 1);
    let plan = DataPlan::new(decls.clone()).unwrap();
    assert_eq!(
        file.len() as u64,
        plan.file_len(&[1000, 0], metadata.len() as u64)
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zoo.chaski");
    std::fs::write(&path, &file).unwrap();
    for container in [
        Container::open(&path).unwrap(),
        Container::from_bytes(file.clone()).unwrap(),
    ] {
        let mut calls = Vec::new();
        container
            .verify(|done, total| calls.push((done, total)))
            .unwrap();
        assert_eq!(calls.len(), decls.len() + 1);
        assert!(calls[0].0 == 0 && calls.iter().all(|c| c.1 == calls[decls.len()].0));
        container.prefetch().unwrap();
        assert_eq!(container.metadata(), metadata);
        assert_eq!(
            container.section(SectionKind::Tokenizer),
            Some(&tokenizer[..])
        );
        assert_eq!(container.section(SectionKind::Other(77)), Some(&b""[..]));
        assert_eq!(container.section(SectionKind::TokenizerFast), None);
        assert_eq!(container.file_len(), file.len() as u64);
        assert_eq!(container.sections().len(), 5);
        assert_eq!(container.data_range().start as u64, DATA_ALIGN);
        assert_eq!(container.data_range().len() as u64, plan.data_len());
        assert!(container.tensor("gate").is_none());

        // The same seed gives the same tiles in the same order.
        let mut rng = common::Rng(1);
        let mut expected: Vec<Vec<u8>> = vec![Vec::new(); decls.len()];
        let mut i = 0;
        while i < decls.len() {
            let n = 1 + usize::from(decls[i].interleaved);
            if let TensorKind::Matrix(layout) = decls[i].kind {
                for t in 0..layout.n_tiles() {
                    (0..n).for_each(|d| expected[i + d].extend(random_tile(&layout, t, &mut rng)));
                }
            }
            i += n;
        }
        for (i, decl) in decls.iter().enumerate() {
            let view = container.tensor(&decl.name).unwrap();
            assert_eq!(
                (view.entry.kind, view.entry.offset),
                (decl.kind, plan.offset(i))
            );
            assert_eq!(view.entry.name, container.tensors()[i].name);
            match decl.kind {
                TensorKind::Matrix(_) => {
                    let tiles: TileRun<'_> = view.tiles().unwrap();
                    let bytes: Vec<u8> = (0..tiles.n_tiles())
                        .flat_map(|t| tiles.tile(t).to_vec())
                        .collect();
                    assert!(bytes == expected[i], "{}", decl.name);
                    let error = view.vector().unwrap_err().to_string();
                    assert!(error.contains(&decl.name) && error.contains("expected a vector"));
                }
                TensorKind::Vector { len } => {
                    let v = view.vector().unwrap();
                    assert_eq!(
                        (v.len(), v[0].to_le_bytes().as_slice()),
                        (len, &view.bytes[..4])
                    );
                    let error = view.tiles().unwrap_err().to_string();
                    assert!(error.contains("expected a matrix"), "{error}");
                }
            }
        }
        for (i, _) in decls.iter().enumerate().filter(|(_, d)| d.interleaved) {
            let pair = container.pair_bytes(i);
            let [first, second] = [i, i + 1].map(|t| container.tensor_at(t).tiles().unwrap());
            let turns = (0..first.n_tiles()).flat_map(|t| [first.tile(t), second.tile(t)]);
            assert!(pair == turns.collect::<Vec<_>>().concat());
        }
        let layer = container.tensor("gate.q4").unwrap().entry.offset;
        assert!(layer > 0 && layer.is_multiple_of(DATA_ALIGN));
    }
}

#[test]
fn the_golden_file_is_written_and_read() {
    if std::env::var_os("CHASKI_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.hex");
        std::fs::write(path, to_hex(&tiny_file())).unwrap();
        return;
    }
    let text = include_str!("data/tiny.hex");
    assert_eq!(to_hex(&tiny_file()), text, "the writer's bytes changed");
    let file = from_hex(text);
    let container = Container::from_bytes(file).unwrap();
    container.verify(|_, _| {}).unwrap();
    assert_eq!(container.metadata(), TINY_METADATA);
    let w = container.tensor("w").unwrap();
    let first = chaski_quant::scalar::dequantize_tile(w.layout().unwrap(), 0, w.bytes);
    assert_eq!(first[0].to_bits(), 0x408c_7bd4);
    let gate = container.tensor("gate").unwrap();
    let (layout, tiles) = (gate.layout().unwrap(), gate.tiles().unwrap());
    let last = chaski_quant::scalar::dequantize_tile(layout, 1, tiles.tile(1));
    let row_scale = f32::from_bits(0x3590_1bd0);
    let weights = [-3.0, -32.0, -21.0].map(|v| v * 51.0 * row_scale);
    assert_eq!((last.len(), &last[..3]), (32, &weights[..]));
    assert_eq!(last[16], last[0]);
    assert_eq!(container.tensor("norm").unwrap().vector().unwrap().len(), 3);
}

#[test]
fn the_specification_quotes_the_golden_file() {
    let golden = include_str!("data/tiny.hex");
    let specification = include_str!("../docs/format.md");
    let quoted: Vec<&str> = specification
        .lines()
        .filter(|l| l.len() > 9 && l.starts_with("0000") || l.starts_with("0001"))
        .map(|l| l.split("   ").next().unwrap().trim_end())
        .collect();
    assert!(quoted.len() > 20, "{} lines", quoted.len());
    for line in quoted {
        assert!(
            golden.lines().any(|l| l == line),
            "`{line}` is not in the golden file"
        );
    }
}

#[test]
fn any_flipped_bit_fails() {
    let mut file = tiny_file();
    verify(&file).unwrap();
    let data = Container::from_bytes(file.clone()).unwrap().data_range();
    for i in 0..file.len() {
        for bit in 0..8 {
            file[i] ^= 1 << bit;
            // Outside the data not even opening succeeds.
            let opened = Container::from_bytes(file.clone());
            if data.contains(&i) {
                let error = opened.unwrap().verify(|_, _| {});
                assert!(error.is_err(), "bit {bit} of byte {i}");
            } else {
                assert!(opened.is_err(), "bit {bit} of byte {i}");
            }
            file[i] ^= 1 << bit;
        }
    }
}

#[test]
fn a_flipped_bit_between_layers_fails() {
    let first = vector("a", 1);
    let second = TensorDecl {
        section_start: true,
        ..vector("b", 1)
    };
    let mut file = build(vec![first, second], &[], "{}", 3);
    for i in [65536 + 4, 65536 + 63, 65536 + 64, 100_000, 2 * 65536 - 1] {
        file[i] = 1;
        let error = verify(&file).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("padding: byte {i} of the file is 0x01, expected 0")
        );
        file[i] = 0;
    }
    verify(&file).unwrap();
}

#[test]
fn damage_is_told_with_the_name_of_what_is_damaged() {
    let file = tiny_file();
    let at = |section: &str, within: usize| {
        let container = Container::from_bytes(file.clone()).unwrap();
        let offset = match container.tensor(section) {
            Some(t) => DATA_ALIGN + t.entry.offset,
            None => {
                container
                    .sections()
                    .iter()
                    .find(|s| s.kind.to_string() == section)
                    .unwrap()
                    .offset
            }
        };
        offset as usize + within
    };
    let cases = [
        (0, "not a chaski file: starts with `\\x88CHASKI\\n`"),
        (8, "format version 0"),
        (500, "header: checksum"),
        (511, "header: checksum"),
        (512, "padding: byte 512"),
        (65535, "padding: byte 65535"),
        (at("norm", 0), "tensor `norm`: checksum"),
        (at("w", 0), "tensor `w`: checksum"),
        // The tiles of a pair, each in turn.
        (at("gate", 0), "tensor `gate`: checksum"),
        (at("gate", 384), "tensor `up`: checksum"),
        (at("gate", 768), "tensor `gate`: checksum"),
        (at("up", 768), "tensor `up`: checksum"),
        (at("norm", 12), "padding: byte 65548"),
        (at("directory", 9), "directory section: checksum"),
        (at("tokenizer", 0), "tokenizer section: checksum"),
        (at("tokenizer", 6), "padding: byte"),
        (at("tokenizer-fast", 1), "tokenizer-fast section: checksum"),
        (at("metadata", 5), "metadata section: checksum"),
    ];
    for (i, want) in cases {
        let mut file = file.clone();
        file[i] ^= 1;
        let got = verify(&file).unwrap_err().to_string();
        assert!(got.contains(want), "byte {i}: {got}, expected {want}");
    }
}

#[test]
fn vectors_must_be_finite() {
    let plan = DataPlan::new(vec![vector("v", 3)]).unwrap();
    let mut writer = ContainerWriter::new(Cursor::new(Vec::new()), plan).unwrap();
    let bytes: Vec<u8> = [1.0, 2.0, f32::NAN]
        .iter()
        .flat_map(|v: &f32| v.to_le_bytes())
        .collect();
    writer.write(0, &bytes).unwrap();
    let file = writer.finish("{}", &[]).unwrap().into_inner();
    let got = verify(&file).unwrap_err().to_string();
    assert_eq!(got, "tensor `v`: element 2 is not finite");
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let start =
        || ContainerWriter::new(Cursor::new(Vec::new()), DataPlan::new(tiny()).unwrap()).unwrap();
    let mut w = start();
    let mut refuse = |tensor, len: usize, want: &str| {
        let got = w.write(tensor, &vec![1; len]).unwrap_err().to_string();
        assert!(got.contains(want), "{got}, expected {want}");
    };
    refuse(
        1,
        640,
        "bytes of tensor 1 were written, expected those of `norm`",
    );
    refuse(9, 640, "bytes of tensor 9 were written");
    refuse(
        0,
        8,
        "8 bytes of tensor `norm` were written, expected a multiple of 12 up to 12",
    );
    refuse(0, 0, "0 bytes of tensor `norm`");
    w.write(0, &[0; 12]).unwrap();
    let mut refuse = |tensor, len: usize, want: &str| {
        let got = w.write(tensor, &vec![1; len]).unwrap_err().to_string();
        assert!(got.contains(want), "{got}, expected {want}");
    };
    refuse(0, 12, "expected those of `w`");
    refuse(
        1,
        641,
        "641 bytes of tensor `w` were written, expected a multiple of 640 up to 640",
    );
    w.write(1, &[0; 640]).unwrap();
    w.write(2, &[0; 384]).unwrap();
    assert!(
        w.write(2, &[0; 384])
            .unwrap_err()
            .to_string()
            .contains("expected those of `up`")
    );
    assert!(
        w.write(3, &[0; 768])
            .unwrap_err()
            .to_string()
            .contains("up to 384")
    );
    w.write(3, &[0; 384]).unwrap();
    w.write(2, &[0; 384]).unwrap();
    let error = w.finish("{}", &[]).unwrap_err().to_string();
    assert_eq!(error, "tensor `gate` was not written as a whole");

    let empty = || {
        let plan = DataPlan::new(Vec::new()).unwrap();
        ContainerWriter::new(Cursor::new(Vec::new()), plan).unwrap()
    };
    let section = |kind| Section { kind, bytes: b"" };
    for kind in [
        SectionKind::Data,
        SectionKind::Directory,
        SectionKind::Metadata,
    ] {
        let error = empty().finish("{}", &[section(kind)]).unwrap_err();
        assert!(
            matches!(error, ContainerError::ReservedSection { .. }),
            "{error}"
        );
    }
    for id in [0, 1, 5, 0xffff] {
        let error = empty()
            .finish("{}", &[section(SectionKind::Other(id))])
            .unwrap_err();
        assert!(
            matches!(error, ContainerError::ReservedSection { .. }),
            "{error}"
        );
    }
    let twice = [section(SectionKind::Tokenizer); 2];
    let error = empty().finish("{}", &twice).unwrap_err();
    assert!(
        matches!(error, ContainerError::DuplicateSection { .. }),
        "{error}"
    );
    let many: Vec<_> = (100..113).map(|i| section(SectionKind::Other(i))).collect();
    let error = empty().finish("{}", &many).unwrap_err();
    assert!(
        matches!(error, ContainerError::TooManySections { n: 16, max: 15 }),
        "{error}"
    );
    empty().finish("{}", &many[1..]).unwrap();
    assert!(matches!(
        empty().finish("[]", &[]).unwrap_err(),
        ContainerError::MetadataJson(_)
    ));

    let mut w = start();
    w.write(0, &[0; 12]).unwrap();
    let error = w.write(4, &[]).unwrap_err().to_string();
    assert!(error.contains("expected those of `w`"), "{error}");
}

#[test]
fn a_file_without_tensors_is_a_file() {
    let file = build(Vec::new(), &[], "{}", 0);
    assert_eq!(file.len(), 65536 + 64 + 2);
    verify(&file).unwrap();
}

#[test]
fn an_unfinished_file_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.chaski");
    let file = AtomicFile::create(&path, false).unwrap();
    let plan = DataPlan::new(vec![matrix("m", QuantType::F16, 32, 32)]).unwrap();
    let mut writer = ContainerWriter::new(file, plan).unwrap();
    let part = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
    };
    assert!(matches!(
        Container::open(part()).unwrap_err(),
        ContainerError::Unfinished
    ));
    writer.write(0, &[0; 2048]).unwrap();
    assert!(matches!(
        Container::open(part()).unwrap_err(),
        ContainerError::Unfinished
    ));
    assert!(!path.exists());
    writer.finish("{}", &[]).unwrap().commit().unwrap();
    Container::open(&path).unwrap().verify(|_, _| {}).unwrap();
}

#[test]
fn metadata_are_renewed_before_a_file_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.chaski");
    let file = AtomicFile::create(&path, false).unwrap();
    let plan = || DataPlan::new(vec![matrix("m", QuantType::F16, 32, 32)]).unwrap();
    let mut writer = ContainerWriter::new(file, plan()).unwrap();
    writer.write(0, &[0; 2048]).unwrap();
    let file = writer.finish("{\"a\": 1}", &[]).unwrap();
    assert_eq!(file.open().unwrap().metadata(), "{\"a\": 1}");
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(5000));
    assert!(file.rewrite_metadata("[]").is_err());
    file.rewrite_metadata(&long).unwrap();
    assert_eq!(file.open().unwrap().metadata(), long);
    assert!(!path.exists());
    file.commit().unwrap();
    let mut writer = ContainerWriter::new(Cursor::new(Vec::new()), plan()).unwrap();
    writer.write(0, &[0; 2048]).unwrap();
    let want = writer.finish(&long, &[]).unwrap().into_inner();
    assert!(std::fs::read(&path).unwrap() == want);
}

#[test]
fn an_open_file_survives_its_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.chaski");
    std::fs::write(&path, tiny_file()).unwrap();
    let open = Container::open(&path).unwrap();
    let replacement = AtomicFile::create(&path, true).unwrap();
    let writer = ContainerWriter::new(replacement, DataPlan::new(Vec::new()).unwrap()).unwrap();
    writer.finish("{}", &[]).unwrap().commit().unwrap();
    open.verify(|_, _| {}).unwrap();
    assert_eq!(Container::open(&path).unwrap().metadata(), "{}");
}

#[test]
fn only_regular_files_open() {
    let dir = tempfile::tempdir().unwrap();
    let error = Container::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("is not a regular file"), "{error}");
    let error = Container::open(dir.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("could not open") && error.to_string().contains("none"));
    assert!(std::error::Error::source(&error).is_some());
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let error = Container::open(&empty).unwrap_err().to_string();
    assert_eq!(error, "the file is cut short: 0 bytes, expected 512");
}

#[test]
fn a_destination_that_is_full_is_an_error() {
    struct Full(Cursor<Vec<u8>>, usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.position() as usize + bytes.len() > self.1 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl std::io::Seek for Full {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let write = |room| -> Result<(), ContainerError> {
        let plan = DataPlan::new(vec![vector("v", 1000)])?;
        let mut w = ContainerWriter::new(Full(Cursor::new(Vec::new()), room), plan)?;
        w.write(0, &[0; 4000])?;
        w.finish("{}", &[]).map(|_| ())
    };
    let whole = build(vec![vector("v", 1000)], &[], "{}", 0).len();
    write(whole).unwrap();
    for room in [0, 65535, 65536 + 3999, whole - 1] {
        let error = write(room).unwrap_err();
        assert!(
            matches!(&error, ContainerError::Write(e) if e.kind() == std::io::ErrorKind::StorageFull),
            "{room}: {error}"
        );
    }
}

#[test]
fn metadata_are_renewed_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.chaski");
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(100_000));
    let sections = [Section {
        kind: SectionKind::Tokenizer,
        bytes: b"tokens",
    }];
    std::fs::write(&path, build(tiny(), &sections, "{}", 7)).unwrap();
    for metadata in ["{\"a\": 1}", &long, &long, "{}", "{\"b\": [1, 2]}"] {
        let open = Container::open(&path).unwrap();
        let before = open.metadata().to_owned();
        rewrite_metadata(&path, metadata).unwrap();
        let want = build(tiny(), &sections, metadata, 7);
        assert!(
            std::fs::read(&path).unwrap() == want,
            "as if written so from the start"
        );
        // An open file keeps its metadata, and says so if asked whether all is as it was.
        assert_eq!(open.metadata(), before);
        assert!((0..4).all(|i| open.verify_tensor(i).is_ok()));
        assert_eq!(open.section(SectionKind::Tokenizer), Some(&b"tokens"[..]));
    }
    for (metadata, want) in [("[]", "metadata section"), ("", "metadata section")] {
        let before = std::fs::read(&path).unwrap();
        let error = rewrite_metadata(&path, metadata).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert!(std::fs::read(&path).unwrap() == before);
    }
    let locked = std::fs::File::open(&path).unwrap();
    locked.lock().unwrap();
    let error = rewrite_metadata(&path, "{}").unwrap_err();
    assert!(matches!(error, ContainerError::Busy { .. }), "{error}");
    assert!(rewrite_metadata(Path::new("/"), "{}").is_err());
}
