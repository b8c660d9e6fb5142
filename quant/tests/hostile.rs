//! Files that somebody made to do harm: an error that names the field, never a panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;
#[path = "common/drive.rs"]
mod drive;

use std::{fs, path::PathBuf};

use chaski_quant::{
    QuantType,
    container::{Container, ContainerError, Section, SectionKind, TensorDecl},
};
use common::{build, matrix, sign, tiny, tiny_file, vector};
use drive::{drive, expand, shorten};
use proptest::prelude::*;

fn problem(file: &[u8]) -> Option<String> {
    let verified =
        Container::from_bytes(file.to_vec()).and_then(|container| container.verify(|_, _| {}));
    verified.err().map(|e| match std::error::Error::source(&e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    })
}

fn put(file: &mut [u8], at: usize, width: usize, value: u64) {
    file[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

#[test]
fn a_file_cut_at_any_length_does_not_open() {
    let file = tiny_file();
    for len in 0..file.len() {
        let got = Container::from_bytes(file[..len].to_vec()).unwrap_err();
        let named =
            matches!(got, ContainerError::Truncated { file_len, .. } if file_len == len as u64);
        assert!(named, "{len}: {got}");
    }
    let longer = [&file[..], &[0]].concat();
    let got = problem(&longer).unwrap();
    assert_eq!(
        got,
        "bytes after the end: the file has 68198, its header says 68197"
    );
}

/// A number in the file.
struct Field {
    name: &'static str,
    at: usize,
    width: usize,
    /// One of these must be in the message, whatever the value.
    words: &'static [&'static str],
}

const fn field(
    name: &'static str,
    at: usize,
    width: usize,
    words: &'static [&'static str],
) -> Field {
    Field {
        name,
        at,
        width,
        words,
    }
}

/// Where the directory of the tiny file stands, and its entries.
const DIRECTORY: usize = 0x108c0;
const NORM: usize = DIRECTORY + 8;
const W: usize = NORM + 44 + 4;
const GATE: usize = W + 44 + 1;
const UP: usize = GATE + 44 + 4;

const SECTION: [usize; 5] = [24, 24 + 28, 24 + 2 * 28, 24 + 3 * 28, 24 + 4 * 28];

#[test]
fn every_field_at_every_edge_is_an_error_that_names_it() {
    let shape: &[&str] = &[
        "impossible shape",
        "offset is",
        "data length",
        "no matrix of the same",
    ];
    let fields = [
        field("magic", 0, 8, &["not a chaski file", "unfinished"]),
        field("version", 8, 4, &["format version"]),
        field(
            "section count",
            12,
            4,
            &[
                "section count",
                "header: byte",
                "there is no",
                "section 5 (kind-0): kind is 0",
            ],
        ),
        field(
            "file length",
            16,
            8,
            &["file length", "cut short", "length is", "offset is"],
        ),
        field("data kind", SECTION[0], 2, &["section 0", "two sections"]),
        field(
            "data flags",
            SECTION[0] + 2,
            2,
            &["section 0 (data): flags"],
        ),
        field(
            "data offset",
            SECTION[0] + 4,
            8,
            &["section 0 (data): offset"],
        ),
        field(
            "data length",
            SECTION[0] + 12,
            8,
            &[
                "section 0 (data): length",
                "(directory): offset",
                "tensor directory: data length",
            ],
        ),
        field(
            "directory kind",
            SECTION[1],
            2,
            &[
                "section 1",
                "two sections",
                "no directory",
                "unknown kind",
                "directory",
            ],
        ),
        field(
            "directory flags",
            SECTION[1] + 2,
            2,
            &["section 1 (directory): flags"],
        ),
        field(
            "directory offset",
            SECTION[1] + 4,
            8,
            &["section 1 (directory): offset"],
        ),
        field(
            "directory length",
            SECTION[1] + 12,
            8,
            &[
                "(directory): length",
                "section 2 (tokenizer): offset",
                "tensor directory: length",
                "tensor directory: tensor count",
                "tensor 3",
                "padding: byte",
            ],
        ),
        field(
            "tokenizer kind",
            SECTION[2],
            2,
            &["section 2", "two sections", "unknown kind", "section 3"],
        ),
        field(
            "fast flags",
            SECTION[3] + 2,
            2,
            &["section 3 (tokenizer-fast): flags"],
        ),
        field(
            "metadata kind",
            SECTION[4],
            2,
            &["section 4", "two sections", "no metadata", "unknown kind"],
        ),
        field(
            "metadata offset",
            SECTION[4] + 4,
            8,
            &["section 4 (metadata): offset"],
        ),
        field(
            "metadata length",
            SECTION[4] + 12,
            8,
            &["section 4 (metadata): length", "file length"],
        ),
        field("unused entry", SECTION[4] + 28, 8, &["header: byte"]),
        field("reserved", 472, 8, &["header: byte"]),
        field("reserved end", 496, 8, &["header: byte"]),
        field(
            "tensor count",
            DIRECTORY,
            4,
            &["tensor directory: tensor count", "tensor directory: length"],
        ),
        field(
            "directory reserved",
            DIRECTORY + 4,
            4,
            &["tensor directory: reserved"],
        ),
        field("norm offset", NORM, 8, &["tensor 0 (`norm`): offset"]),
        field(
            "norm stride",
            NORM + 8,
            8,
            &["tensor 0 (`norm`): tile stride"],
        ),
        field("norm checksum", NORM + 16, 8, &["tensor `norm`: checksum"]),
        field(
            "norm length",
            NORM + 24,
            4,
            &[
                "tensor `norm`: a vector of",
                "padding: byte",
                "tensor 1 (`w`): offset",
                "`norm`: checksum",
            ],
        ),
        field(
            "norm columns",
            NORM + 28,
            4,
            &["tensor 0 (`norm`): columns"],
        ),
        field(
            "norm row group",
            NORM + 32,
            4,
            &["tensor 0 (`norm`): row group"],
        ),
        field("norm kind", NORM + 36, 1, &["tensor 0 (`norm`)"]),
        field(
            "norm type",
            NORM + 37,
            1,
            &["tensor 0 (`norm`): quant type"],
        ),
        // That norm starts a layer is true of where it stands.
        field(
            "norm flags",
            NORM + 38,
            2,
            &["tensor 0 (`norm`): flags", "`norm`: is interleaved"],
        ),
        field(
            "norm name length",
            NORM + 40,
            2,
            &[
                "tensor 0: name length",
                "tensor 0: the name holds",
                "tensor 1",
                "tensor 0",
            ],
        ),
        field(
            "norm reserved",
            NORM + 42,
            2,
            &["tensor 0 (`norm`): reserved"],
        ),
        field("w offset", W, 8, &["tensor 1 (`w`): offset"]),
        field("w stride", W + 8, 8, &["tensor 1 (`w`): tile stride"]),
        field("w rows", W + 24, 4, shape),
        field(
            "w columns",
            W + 28,
            4,
            &[
                "impossible shape",
                "tensor 1 (`w`): tile stride",
                "`w`: checksum",
            ],
        ),
        field(
            "w row group",
            W + 32,
            4,
            &["tensor `w`: impossible shape", "(`gate`): offset"],
        ),
        field("w kind", W + 36, 1, &["tensor 1 (`w`)"]),
        field(
            "w type",
            W + 37,
            1,
            &["tensor 1 (`w`): quant type", "tensor 1 (`w`): tile stride"],
        ),
        field(
            "w flags",
            W + 38,
            2,
            &[
                "tensor 1 (`w`): offset",
                "tensor 1 (`w`): flags",
                "`w`: is interleaved with the next one, `gate`",
            ],
        ),
        field("w name length", W + 40, 2, &["tensor 1", "tensor 2"]),
        field("gate offset", GATE, 8, &["tensor 2 (`gate`): offset"]),
        field(
            "gate stride",
            GATE + 8,
            8,
            &["tensor 2 (`gate`): tile stride"],
        ),
        field("gate checksum", GATE + 16, 8, &["tensor `gate`: checksum"]),
        field(
            "gate rows",
            GATE + 24,
            4,
            &[
                "impossible shape",
                "`gate`: is interleaved with the next one, `up`, which is no",
            ],
        ),
        field(
            "gate flags",
            GATE + 38,
            2,
            &[
                "(`gate`): offset",
                "(`gate`): tile stride",
                "(`gate`): flags",
            ],
        ),
        field("up offset", UP, 8, &["tensor 3 (`up`): offset"]),
        field("up stride", UP + 8, 8, &["tensor 3 (`up`): tile stride"]),
        field("up checksum", UP + 16, 8, &["tensor `up`: checksum"]),
        field(
            "up columns",
            UP + 28,
            4,
            &["impossible shape", "which is no matrix of the same layout"],
        ),
        field(
            "up flags",
            UP + 38,
            2,
            &["`up`, which itself starts", "(`up`): flags"],
        ),
        field(
            "up name length",
            UP + 40,
            2,
            &["tensor 3: name length", "tensor directory: length"],
        ),
    ];
    let file = tiny_file();
    let (mut reached, mut wrong) = (0, Vec::new());
    for f in &fields {
        let mut original = [0; 8];
        original[..f.width].copy_from_slice(&file[f.at..f.at + f.width]);
        let original = u64::from_le_bytes(original);
        let max = u64::MAX >> (64 - 8 * f.width);
        let edges = [
            0,
            1,
            2,
            3,
            63,
            64,
            255,
            256,
            65_535,
            65_536,
            1 << 28,
            (1 << 28) + 1,
            1 << 31,
            1 << 62,
        ];
        let near = [
            original.wrapping_sub(1),
            original + 1,
            original + 64,
            original ^ 1 << (8 * f.width - 1),
        ];
        let values =
            edges
                .into_iter()
                .chain(near)
                .chain([max, max - 1, max - 63, max / 2, max / 2 + 1]);
        for value in values.map(|v| v & max).filter(|v| *v != original) {
            // Still true: a layer may start where `norm` does, and one block may have any number of
            // columns up to 32.
            if (f.name, value) == ("norm flags", 1)
                || f.name == "w columns" && (1..=32).contains(&value)
            {
                continue;
            }
            let mut file = file.clone();
            put(&mut file, f.at, f.width, value);
            sign(&mut file);
            let got = problem(&file).unwrap_or_else(|| "accepted".to_owned());
            let named = f.words.iter().any(|w| got.contains(w));
            if !named || got.contains("header: checksum") {
                wrong.push(format!("{} = {value}: {got}", f.name));
            }
            reached += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(reached > 900, "{reached} cases");
}

#[test]
fn checksums_in_header_and_table_are_compared() {
    let file = tiny_file();
    let cases = [
        (504, "header: checksum"),
        (SECTION[0] + 20, "header: checksum"),
        (SECTION[1] + 20, "header: checksum"),
    ];
    for (at, want) in cases {
        let mut file = file.clone();
        file[at] ^= 1;
        assert!(problem(&file).unwrap().contains(want));
    }
    // A table with a valid checksum of its own that says something else of the sections.
    let kinds = [
        "section 0 (data): checksum",
        "directory section",
        "tokenizer section",
        "tokenizer-fast section",
        "metadata section",
    ];
    for (section, want) in SECTION.into_iter().zip(kinds) {
        let mut file = file.clone();
        file[section + 20] ^= 1;
        let checksum = xxhash_rust::xxh3::xxh3_64(&file[..504]);
        put(&mut file, 504, 8, checksum);
        let got = problem(&file).unwrap();
        assert!(got.contains(want), "{got}");
    }
}

/// The tiny file with other bytes in its directory.
fn with_directory(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let file = tiny_file();
    let mut directory = file[DIRECTORY..DIRECTORY + 195].to_vec();
    change(&mut directory);
    let metadata = b"{}";
    let at = (DIRECTORY + directory.len()).next_multiple_of(64);
    let mut out = file[..DIRECTORY].to_vec();
    out.extend_from_slice(&directory);
    out.resize(at, 0);
    out.extend_from_slice(metadata);
    out[SECTION[2]..504].fill(0);
    put(&mut out, 12, 4, 3);
    let len = out.len() as u64;
    put(&mut out, 16, 8, len);
    put(&mut out, SECTION[1] + 12, 8, directory.len() as u64);
    put(&mut out, SECTION[2], 2, 3);
    put(&mut out, SECTION[2] + 4, 8, at as u64);
    put(&mut out, SECTION[2] + 12, 8, metadata.len() as u64);
    sign(&mut out);
    out
}

#[test]
fn names_are_checked() {
    type Change = fn(&mut Vec<u8>);
    assert_eq!(problem(&with_directory(|_| {})), None);
    let cases: [(Change, &str); 8] = [
        (|d| d[8 + 44] = 0xff, "tensor 0: the name is not UTF-8"),
        (
            |d| d[8 + 44] = 0x1b,
            "tensor 0: the name holds the control character \\u{1b}",
        ),
        (
            |d| d[8 + 44..8 + 46].copy_from_slice(b"\xc2\x85"),
            "control character \\u{85}",
        ),
        // `norm` shortened to `w`, its other letters gone.
        (
            |d| {
                d[8 + 44] = b'w';
                d[8 + 40] = 1;
                d.drain(8 + 45..8 + 48);
            },
            "two tensors are named `w`",
        ),
        (|d| d.truncate(8), "tensor count is 4, expected 0..=0"),
        (
            |d| d.truncate(7),
            "tensor directory: length is 7, expected 8",
        ),
        (|d| d.truncate(0), "tensor directory: length is 0"),
        (
            |d| d.push(0),
            "tensor directory: length is 196, expected 195",
        ),
    ];
    for (change, want) in cases {
        let got = problem(&with_directory(change)).unwrap();
        assert!(got.contains(want), "{got}, expected {want}");
    }
}

#[test]
fn an_entry_cut_at_any_length_is_an_error() {
    for len in 0..195 {
        let file = with_directory(|d| d.truncate(len));
        let got = problem(&file).unwrap();
        assert!(
            got.contains("tensor directory") || got.contains("tensor 3"),
            "{len}: {got}"
        );
    }
}

#[test]
fn hostile_metadata_does_not_open() {
    let whole = build(
        tiny(),
        &[],
        &format!("{{\"a\": \"{}\"}}", "x".repeat(5000)),
        7,
    );
    let at = whole.len() - 5009;
    let cases: [(&[u8], &str); 7] = [
        (b"\xff", "metadata section: not UTF-8"),
        (b"[", "expected a JSON object"),
        (b"", "EOF"),
        (b"{\"a\":", "EOF"),
        (&b"{\"a\":[[[[".repeat(400), "recursion limit"),
        (b"{\"a\":1e400}", "number out of range"),
        (b"{\"a\":1,\"a\":1}", "the key `a` is there twice"),
    ];
    for (text, want) in cases {
        let mut file = whole[..at].to_vec();
        file.extend_from_slice(text);
        let len = file.len() as u64;
        put(&mut file, 16, 8, len);
        put(&mut file, SECTION[2] + 12, 8, text.len() as u64);
        sign(&mut file);
        let got = problem(&file).unwrap();
        assert!(
            got.contains("metadata") && got.contains(want),
            "{got}, expected {want}"
        );
    }
}

#[test]
fn sections_that_no_reader_knows() {
    let other = Section {
        kind: SectionKind::Other(500),
        bytes: b"later",
    };
    let mut file = build(tiny(), &[other], "{}", 7);
    assert_eq!(problem(&file), None, "optional: skipped");
    put(&mut file, SECTION[2] + 2, 2, 0);
    sign(&mut file);
    let got = problem(&file).unwrap();
    assert!(
        got.contains("unknown kind 500 that is not marked optional"),
        "{got}"
    );
}

/// Hostile and sound inputs of the fuzz target, by name.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let tiny = tiny_file();
    let changed = |at: usize, width: usize, value: u64| {
        let mut file = tiny.clone();
        put(&mut file, at, width, value);
        shorten(2, &file)
    };
    let section = |kind| Section {
        kind,
        bytes: b"bytes",
    };
    let pair = vec![
        TensorDecl {
            interleaved: true,
            ..matrix("a", QuantType::Q5, 3, 5)
        },
        matrix("b", QuantType::Q5, 3, 5),
        matrix("c", QuantType::Q6, 1, 1),
        matrix("d", QuantType::Q4H, 16, 32),
        matrix("e", QuantType::F16, 2, 3),
    ];
    let other = [
        section(SectionKind::Other(9)),
        section(SectionKind::TokenizerFast),
    ];
    let mut renewal = build(Vec::new(), &[section(SectionKind::Other(9))], "{}", 7);
    // From the end of the directory to the end of the section.
    put(&mut renewal, SECTION[2], 4, 0xffff);
    put(&mut renewal, SECTION[2] + 4, 8, 65536 + 8);
    put(&mut renewal, SECTION[2] + 12, 8, 56 + 5);
    let mut cut_renewal = build(Vec::new(), &[], "{}", 7);
    put(&mut cut_renewal, 12, 4, 4);
    put(&mut cut_renewal, SECTION[3], 2, 0xffff);
    put(&mut cut_renewal, SECTION[3] + 4, 8, 65536 + 66);
    put(&mut cut_renewal, SECTION[3] + 12, 8, u64::MAX - 65536 - 66);
    put(&mut cut_renewal, 16, 8, u64::MAX);
    vec![
        ("empty", Vec::new()),
        ("magic", shorten(0, &tiny[..8])),
        ("header", shorten(0, &tiny[..512])),
        ("zeros", shorten(0, &[0; 600])),
        ("tiny", shorten(1, &tiny)),
        ("tiny-signed", shorten(2, &tiny)),
        ("no-tensors", shorten(2, &build(Vec::new(), &[], "{}", 7))),
        (
            "one-vector",
            shorten(2, &build(vec![vector("v", 1)], &[], "{}", 7)),
        ),
        (
            "types",
            shorten(2, &build(pair, &other, "{\"a\": [1.5, \"\\u00e9\"]}", 7)),
        ),
        ("renewal", shorten(2, &renewal)),
        ("renewal-beyond-end", shorten(2, &cut_renewal)),
        ("section-length-max", changed(SECTION[1] + 12, 8, u64::MAX)),
        (
            "section-offset-max",
            changed(SECTION[4] + 4, 8, u64::MAX - 63),
        ),
        ("file-length-max", changed(16, 8, u64::MAX)),
        ("tensor-count-max", changed(DIRECTORY, 4, 0xffff_ffff)),
        ("name-length-max", changed(UP + 40, 2, 0xffff)),
        ("rows-max", changed(W + 24, 8, 1 << 28 | 1 << 60)),
        ("group-zero", changed(W + 32, 4, 0)),
        ("deep-metadata", {
            let metadata = format!("{{\"a\":{}{}}}", "[".repeat(126), "]".repeat(126));
            let mut file = build(Vec::new(), &[], &metadata, 7);
            let at = file.len() - 128;
            file[at..at + 2].copy_from_slice(b"[[");
            shorten(2, &file)
        }),
    ]
}

fn seed_folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/seeds/container"
    ))
}

#[test]
fn the_seeds_of_the_fuzz_target_are_as_made_here() {
    for (name, bytes) in seeds() {
        let path = seed_folder().join(name);
        if std::env::var_os("CHASKI_BLESS").is_some() {
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "{name}");
    }
    let opens = |name: &str| {
        let (_, bytes) = seeds().into_iter().find(|(n, _)| *n == name).unwrap();
        Container::from_bytes(expand(&bytes)).is_ok()
    };
    for name in [
        "tiny",
        "tiny-signed",
        "no-tensors",
        "one-vector",
        "types",
        "renewal",
        "renewal-beyond-end",
    ] {
        assert!(opens(name), "{name}");
    }
    for name in ["magic", "section-length-max", "deep-metadata", "rows-max"] {
        assert!(!opens(name), "{name}");
    }
}

#[test]
fn every_seed_of_the_fuzz_target_is_survived() {
    let mut n = 0;
    for entry in fs::read_dir(seed_folder()).unwrap() {
        drive(&fs::read(entry.unwrap().path()).unwrap());
        n += 1;
    }
    assert!(n >= seeds().len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_are_survived(
        seed in 0..20_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        header in prop::collection::vec((0..200_usize, prop::sample::select(vec![0_u8, 1, 2, 127, 128, 255])), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let seeds = seeds();
        let mut input = seeds[seed % seeds.len()].1.clone();
        if let Some((_, file)) = input.split_first_mut() && !file.is_empty() {
            for (at, value) in changes {
                file[at.index(file.len())] = value;
            }
        }
        for (at, value) in header {
            if let Some(byte) = input.get_mut(1 + at) {
                *byte = value;
            }
        }
        if let Some(cut) = cut {
            input.truncate(cut.index(input.len() + 1));
        }
        drive(&input);
    }

    #[test]
    fn random_bytes_are_survived(input in prop::collection::vec(any::<u8>(), 0..800)) {
        drive(&input);
    }
}
