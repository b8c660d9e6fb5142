//! `chaski bench`, on the command line.

use chaski_quant::QuantType;
use clap::{Args as ClapArgs, ValueEnum};

use super::{GpuArgs, HostArgs, KvArg, MAX_REPETITIONS, MAX_THREADS, MAX_UBATCH, from_to, length};

/// How `bench` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    /// A Markdown table, as llama-bench prints
    Md,
    /// One JSON array
    Json,
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
}

/// `chaski bench`.
#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// .chaski files, checkpoint folders, GGUF files or names of `chaski models`
    #[arg(value_name = "MODEL", required = true)]
    pub(crate) models: Vec<String>,

    /// Convert each checkpoint to these types and measure each (comma-separated)
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    pub(crate) quants: Vec<QuantType>,

    /// Prompt lengths to measure, comma-separated; 0 is none
    #[arg(
        short = 'p',
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "512",
        value_parser = length()
    )]
    pub(crate) n_prompt: Vec<usize>,

    /// Answer lengths to measure, comma-separated; 0 is none
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "128",
        value_parser = length()
    )]
    pub(crate) n_gen: Vec<usize>,

    /// Context depths to measure at, comma-separated
    #[arg(
        short = 'd',
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "0",
        value_parser = length()
    )]
    pub(crate) n_depth: Vec<usize>,

    /// Repetitions
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = from_to(1, MAX_REPETITIONS))]
    pub(crate) repetitions: usize,

    /// Threads, comma-separated [default: the physical cores this process may use]
    #[arg(short = 't', long, value_name = "N", value_delimiter = ',', value_parser = from_to(1, MAX_THREADS))]
    pub(crate) threads: Vec<usize>,

    #[command(flatten)]
    pub(crate) gpu: GpuArgs,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    /// Type of the KV cache
    #[arg(
        long = "kv",
        visible_alias = "ctk",
        value_name = "TYPE",
        default_value = "f16"
    )]
    pub(crate) kv: KvArg,

    /// Positions computed at once while a prompt is read
    #[arg(
        long = "ubatch-size",
        visible_alias = "ub",
        value_name = "N",
        default_value_t = 512,
        value_parser = from_to(1, MAX_UBATCH)
    )]
    pub(crate) ubatch_size: usize,

    /// How to print
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "md")]
    pub(crate) output: BenchFormat,
}
