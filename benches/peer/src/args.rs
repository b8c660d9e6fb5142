//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Compares chaski with ggml and llama.cpp.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures llama.cpp and chaski in turn and prints the ratio of their speeds
    Compare(CompareArgs),
    /// Prints convert/tests/data/ggml_blocks.txt
    Golden,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// The model for llama.cpp
    #[arg(value_name = "MODEL.gguf")]
    pub(crate) gguf: PathBuf,
    /// The model for chaski
    #[arg(value_name = "MODEL.chaski")]
    pub(crate) chaski: PathBuf,
    /// Tokens of the prompt; 0: do not measure prompts
    #[arg(short = 'p', long, default_value_t = 512)]
    pub(crate) n_prompt: usize,
    /// Tokens of the answer; 0: do not measure answers
    #[arg(short = 'n', long, default_value_t = 128)]
    pub(crate) n_gen: usize,
    /// Positions in the KV cache before either
    #[arg(short = 'd', long, default_value_t = 0)]
    pub(crate) n_depth: usize,
    /// Threads of each [default: as chaski takes them]
    #[arg(short, long)]
    pub(crate) threads: Option<usize>,
    /// Rounds, each of which measures both
    #[arg(short, long, default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub(crate) rounds: usize,
    /// Positions computed at once
    #[arg(short, long, default_value_t = 512, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    pub(crate) ubatch: usize,
    /// llama.cpp's CPU backend, such as haswell or zen4 [default: the best for this machine]
    #[arg(long, value_name = "NAME", conflicts_with = "llama_bench")]
    pub(crate) cpu: Option<String>,
    /// Measure with this command, a llama-bench with its first arguments, instead of the library in CHASKI_GGML_DIR
    #[arg(long, value_name = "COMMAND")]
    pub(crate) llama_bench: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
