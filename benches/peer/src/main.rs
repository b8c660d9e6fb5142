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
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use ggml_sys_bindgen::{FOLDER, Ggml, folder};

use args::{Args, Command};

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The error's causes, without a backtrace; where nobody reads them, nothing can be done.
            let _ = writeln!(io::stderr(), "ggml-sys-bindgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Compare(args) => compare::run(args),
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
