//! `compare`: chaski and llama.cpp side by side; `golden`: blocks decoded by ggml.

mod args;
#[path = "../../../convert/tests/common/blocks.rs"]
mod blocks;
mod compare;
mod golden;
mod machine;
mod opponent;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Parser;
use ggml_sys_bindgen::{FOLDER, Ggml, folder};

use args::{Args, Command};

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::Golden => {
            let text = golden::golden(&Ggml::open(&needed_folder()?)?)?;
            io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
    }
}

/// The folder of the libraries, without which there is nothing to do.
fn needed_folder() -> anyhow::Result<PathBuf> {
    folder().with_context(|| {
        format!("{FOLDER} is not set: fetch the libraries with scripts/get-ggml.sh DIR and set it to DIR")
    })
}
