//! The reader of GGUF files: sound files become the model that they came from, all others an error.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/drive.rs"]
mod drive;
mod header;
mod model;
#[path = "../common/models.rs"]
mod models;
mod places;
mod random;
mod round_trip;
#[path = "../common/seeds.rs"]
mod seeds;
mod tokens;
#[path = "../common/writer.rs"]
mod writer;

use std::{error::Error, path::Path};

use chaski_convert::{
    ConvertOptions, Recipe, plan,
    source::{Source, gguf::GgufFile},
};

use writer::Gguf;

fn open(bytes: Vec<u8>) -> Result<GgufFile, String> {
    GgufFile::from_bytes(Path::new("test.gguf"), bytes).map_err(|e| chain(&e))
}

/// What is wrong with a file, from opening it to the plan of its conversion; `None`: nothing.
fn problem(bytes: Vec<u8>) -> Option<String> {
    let source = match open(bytes) {
        Ok(source) => source,
        Err(error) => return Some(error),
    };
    let recipe = Recipe::named("q4").unwrap();
    let planned = plan(&source, &ConvertOptions::new(recipe));
    // The plan does not read the tokenizer's details.
    let tokenizer = source.tokenizer().map_err(|e| chain(&e)).err();
    planned.map_err(|e| chain(&e)).err().or(tokenizer)
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A change that makes a sound file a bad one, and what the error has to say.
struct Case {
    name: &'static str,
    change: fn(&mut Gguf),
    says: &'static [&'static str],
}

/// Checks that each change of `file` is refused for the reason that the case gives.
fn check(file: &Gguf, cases: &[Case]) {
    assert_eq!(problem(file.bytes()), None, "the file without a change");
    for Case { name, change, says } in cases {
        let mut changed = file.clone();
        change(&mut changed);
        let bytes = changed.bytes();
        drive::drive(&bytes);
        let got = problem(bytes).unwrap_or_else(|| panic!("{name}: accepted"));
        for part in *says {
            assert!(got.contains(part), "{name}: {got}\nlacks {part:?}");
        }
        assert!(
            got.contains("test.gguf") || got.contains('`'),
            "{name}: {got}"
        );
    }
}
