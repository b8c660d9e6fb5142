//! The command line, as clap reads it. Flags are named as llama.cpp names them.

mod bench;
mod convert;
mod eval;
mod run;

use std::path::PathBuf;

use chaski::{backend::GpuLayers, session::MAX_CONTEXT};
use chaski_quant::QuantType;
use clap::{
    Args as ClapArgs, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser as Ranged,
};

pub(crate) use bench::{BenchArgs, BenchFormat};
pub(crate) use convert::ConvertArgs;
pub(crate) use eval::EvalArgs;
pub(crate) use run::RunArgs;

/// What a newcomer types first.
const EXAMPLES: &str = "\
Examples:
  chaski run smollm2 \"Explain why the sky is blue.\"    fetch a small model and answer
  chaski run smollm2                                    chat with it
  chaski convert ~/Llama-3.2-1B-Instruct --quant q4     make a .chaski file of a checkpoint
  chaski plan Llama-3.2-1B-Instruct-q4.chaski           the memory to run it

`chaski COMMAND --help` tells more about a command.";

/// Converts checkpoints of Llama-family language models and runs them on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "chaski",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = EXAMPLES
)]
pub(crate) struct Args {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print the answer and errors only: no progress, no statistics
    #[arg(short, long, global = true, display_order = 900)]
    pub(crate) quiet: bool,

    /// Print more: notes on every decision taken
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "quiet",
        display_order = 901
    )]
    pub(crate) verbose: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a prompt, or chat
    Run(RunArgs),
    /// Convert a checkpoint or a GGUF file to a .chaski file
    Convert(ConvertArgs),
    /// Show what a .chaski file, a checkpoint or a GGUF file holds
    Inspect(InspectArgs),
    /// Check every byte of a .chaski file
    Verify(VerifyArgs),
    /// Tell the memory that a model needs, before it is loaded
    Plan(PlanArgs),
    /// Measure perplexity on a text, and how far a model is from its reference
    Eval(EvalArgs),
    /// Measure tokens per second
    Bench(BenchArgs),
    /// List the models that can be fetched by name
    Models(ModelsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The most threads that a session takes.
const MAX_THREADS: u64 = 1024;

/// The most positions that a session computes at once.
const MAX_UBATCH: u64 = 1 << 16;

/// The most repetitions of a bench; their times are kept.
const MAX_REPETITIONS: u64 = 10_000;

/// Numbers from `min` to `max`.
fn from_to(min: u64, max: u64) -> Ranged<usize> {
    Ranged::new().range(min..=max)
}

/// Lengths of a text, 0 included.
fn length() -> Ranged<usize> {
    from_to(0, MAX_CONTEXT as u64)
}

/// A number that `is_valid`, which `expected` says in words.
fn number(
    text: &str,
    expected: &'static str,
    is_valid: impl Fn(f32) -> bool,
) -> Result<f32, String> {
    match text.parse() {
        Ok(number) if is_valid(number) => Ok(number),
        _ => Err(format!("expected {expected}")),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 10000", |n| {
        (0.0..=1e4).contains(&n)
    })
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |n| (0.0..=1.0).contains(&n))
}

fn factor(text: &str) -> Result<f32, String> {
    number(text, "a number above 0, at most 10000", |n| {
        n > 0.0 && n <= 1e4
    })
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, "a number from -10000 to 10000", |n| n.abs() <= 1e4)
}

/// A number of tokens; -1, which is llama.cpp's "no limit", is more than any context has.
fn predict(text: &str) -> Result<usize, String> {
    if text == "-1" {
        return Ok(usize::MAX);
    }
    text.parse()
        .map_err(|_| "expected a number of tokens, or -1 for no limit".to_owned())
}

/// A model and how to open it.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct ModelArgs {
    /// A .chaski file, a checkpoint folder, a GGUF file, or a name of `chaski models`
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,

    /// Type to convert to on first use, where MODEL is no .chaski file [default: q4, or what the
    /// catalogue says]
    #[arg(long, value_name = "TYPE")]
    pub(crate) quant: Option<QuantType>,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvArg {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// 8-bit integers with a scale for each position and head
    #[value(alias = "q8_0")]
    Q8,
}

/// What a session allocates and uses.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct SessionArgs {
    /// Positions to allocate; a prompt and its answer must fit [default: the model's, at most 4096]
    #[arg(short = 'c', long = "ctx-size", value_name = "N", value_parser = from_to(1, MAX_CONTEXT as u64))]
    pub(crate) ctx_size: Option<usize>,

    /// Threads [default: the physical cores this process may use]
    #[arg(short = 't', long, value_name = "N", env = "CHASKI_THREADS", value_parser = from_to(1, MAX_THREADS))]
    pub(crate) threads: Option<usize>,

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
        default_value_t = 256,
        value_parser = from_to(1, MAX_UBATCH)
    )]
    pub(crate) ubatch_size: usize,
}

/// What goes to a GPU.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct GpuArgs {
    /// Put the last N layers on an NVIDIA GPU (-ngl N); one more than the model has means the head
    /// too, as all does; auto puts there what fits. Results are the CPU's, bit for bit
    #[arg(
        long = "gpu-layers",
        visible_aliases = ["ngl", "n-gpu-layers"],
        value_name = "N|auto|all",
        allow_negative_numbers = true,
        default_value = "0"
    )]
    pub(crate) gpu_layers: GpuLayers,
}

/// A list of processors, such as `0-3,6`.
#[derive(Clone, Debug)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

impl std::str::FromStr for CpuList {
    type Err = chaski::os::OsError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        chaski::os::parse_cpus(list).map(Self)
    }
}

/// How the machine is used.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct HostArgs {
    /// Bind each thread to one of these processors, such as 0-3,6; sets the number of threads
    /// unless -t does
    #[arg(long, value_name = "LIST")]
    pub(crate) cpu_list: Option<CpuList>,

    /// Read the model at once and keep it in memory, even when memory is short
    #[arg(long, conflicts_with = "hugepages")]
    pub(crate) mlock: bool,

    /// Copy the model into huge pages: a slower start and as much private memory as the file is
    /// long, for fewer misses of the address translation
    #[arg(long)]
    pub(crate) hugepages: bool,
}

/// How the next token is chosen.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct SamplingArgs {
    /// Seed of the random draws; the same seed gives the same answer [default: random, printed]
    #[arg(short = 's', long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Temperature; 0 always takes the likeliest token [default: the model's, or 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = temperature)]
    pub(crate) temp: Option<f32>,

    /// Keep the K likeliest tokens; 0 keeps all [default: the model's, or 40]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,

    /// Keep the likeliest tokens whose probabilities add up to P [default: the model's, or 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    pub(crate) top_p: Option<f32>,

    /// Drop tokens less likely than P times the likeliest [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    pub(crate) min_p: Option<f32>,

    /// Divide the logits of tokens seen lately by X; 1 is off [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = factor)]
    pub(crate) repeat_penalty: Option<f32>,

    /// How many of the last tokens the penalties look at
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) repeat_last_n: usize,

    /// Subtract X from the logits of tokens seen lately
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        value_parser = penalty
    )]
    pub(crate) presence_penalty: f32,

    /// Subtract X for each time a token was seen lately
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        value_parser = penalty
    )]
    pub(crate) frequency_penalty: f32,
}

/// `chaski inspect`.
#[derive(Debug, ClapArgs)]
pub(crate) struct InspectArgs {
    /// The .chaski file; or a checkpoint folder or a GGUF file, as it is before it is converted
    pub(crate) file: PathBuf,

    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `chaski verify`.
#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// The .chaski files
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// Also check that this machine finds the tokens, chat texts and logits that the file was made
    /// with
    #[arg(long)]
    pub(crate) self_test: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `chaski plan`.
#[derive(Debug, ClapArgs)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) session: SessionArgs,

    #[command(flatten)]
    pub(crate) gpu: GpuArgs,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `chaski models`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
