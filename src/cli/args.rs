//! The command line, as clap reads it. Flags are named as llama.cpp names them.

use std::path::PathBuf;

use chaski::{backend::GpuLayers, session::MAX_CONTEXT};
use chaski_convert::TypeOverride;
use chaski_quant::QuantType;
use clap::{
    Args as ClapArgs, Parser, Subcommand, ValueEnum,
    builder::{NonEmptyStringValueParser, RangedU64ValueParser as Ranged},
};

use super::target::{Bytes, Fit};

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

/// `chaski run`.
#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// The prompt; without one it comes from standard input, and on a terminal a chat begins
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,

    /// Read the prompt from a file, - is standard input; after PROMPT, if there is one, and an empty
    /// line
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Generate at most N tokens; -1 is no limit [default: until the model ends or the context is
    /// full]
    #[arg(short = 'n', long = "predict", value_name = "N", allow_negative_numbers = true, value_parser = predict)]
    pub(crate) predict: Option<usize>,

    #[command(flatten)]
    pub(crate) session: SessionArgs,

    #[command(flatten)]
    pub(crate) gpu: GpuArgs,

    #[command(flatten)]
    pub(crate) host: HostArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// End the answer where TEXT appears; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,

    /// The system message
    #[arg(long, visible_alias = "sys", value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// Continue the prompt as it is, without the chat template
    #[arg(long, conflicts_with = "system")]
    pub(crate) raw: bool,

    /// Print one JSON document instead of the text
    #[arg(long)]
    pub(crate) json: bool,

    /// With --json: the log-probability of each token and, as --logprobs=N, of the N likeliest ones
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0",
        requires = "json"
    )]
    pub(crate) logprobs: Option<usize>,
}

/// `chaski convert`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConvertArgs {
    /// A Hugging Face folder (config.json, *.safetensors, tokenizer.json), a GGUF file, or a name
    /// of `chaski models`
    #[arg(value_name = "SRC")]
    pub(crate) src: String,

    /// The file to write [default: NAME-TYPE.chaski in the current folder]
    #[arg(short, long, value_name = "OUT.chaski")]
    pub(crate) output: Option<PathBuf>,

    /// Type of the linear layers: q3, q4, q4h, q5, q6, q8, f16, bf16 or f32; or one of --size, --fit
    /// and --max-kld, which choose a type for every matrix
    #[arg(long, value_name = "TYPE", required_unless_present_any = ["size", "max_kld", "fit"])]
    pub(crate) quant: Option<QuantType>,

    /// The best types for a file of at most so many bytes: 734003200, 700MB, 0.7GiB
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, conflicts_with_all = ["quant", "max_kld", "fit", "tensor_type"])]
    pub(crate) size: Option<Bytes>,

    /// The smallest file whose mean KL divergence from the source is predicted to be at most this
    #[arg(long, value_name = "NATS", allow_negative_numbers = true, conflicts_with_all = ["quant", "fit", "tensor_type"])]
    pub(crate) max_kld: Option<f64>,

    /// The best types for what runs within so much memory, keys and values of the default context
    /// included: 1GiB-ram
    #[arg(long, value_name = "BYTES-ram", conflicts_with_all = ["quant", "tensor_type"])]
    pub(crate) fit: Option<Fit>,

    /// Measure the file against its source on a text (the one that ships with this program, unless
    /// one is given); --max-kld does so anyway. Keeps the source unquantised in the cache
    #[arg(long, value_name = "TEXT|default", num_args = 0..=1, default_missing_value = "default")]
    pub(crate) check: Option<PathBuf>,

    /// Draw predicted divergence against bytes, with --size, --max-kld or --fit
    #[arg(long, value_name = "FILE.svg", conflicts_with = "quant")]
    pub(crate) plot: Option<PathBuf>,

    /// Another type for one role of tensors: attn_v=q6; several times, or with commas between them
    #[arg(long, value_name = "ROLE=TYPE", value_delimiter = ',')]
    pub(crate) tensor_type: Vec<TypeOverride>,

    /// Run the source on a text and quantise with what is seen: a file, or the text that ships with
    /// this program. With --size, --max-kld and --fit it is also measured what errors of each matrix
    /// matter; without, types are chosen by what they matter in other models
    #[arg(long, value_name = "TEXT|default", num_args = 0..=1, default_missing_value = "default")]
    pub(crate) calibrate: Option<PathBuf>,

    /// Replace OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the plan (tensors, types, sizes, memory to run it) and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Threads [default: all that this process may use]
    #[arg(short = 't', long, value_name = "N", env = "CHASKI_THREADS", value_parser = from_to(1, MAX_THREADS))]
    pub(crate) threads: Option<usize>,

    /// Compare the result with SRC on a text, UTF-8, and write the figures into the file: at most 40
    /// chunks of 512 tokens, as `chaski eval --certify` does
    #[arg(long, value_name = "TEXT")]
    pub(crate) certify: Option<PathBuf>,

    /// Convert a checkpoint that has no tokenizer.json; the result can be measured, not talked to
    #[arg(long)]
    pub(crate) no_tokenizer: bool,
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

/// `chaski eval`.
#[derive(Debug, ClapArgs)]
pub(crate) struct EvalArgs {
    /// .chaski files, checkpoint folders, GGUF files, or names of `chaski models`; several are
    /// measured beside one REFERENCE
    #[arg(value_name = "MODEL", required = true)]
    pub(crate) models: Vec<String>,

    /// Type to convert to on first use, where a MODEL is no .chaski file [default: q4, or what the
    /// catalogue says]
    #[arg(long, value_name = "TYPE")]
    pub(crate) quant: Option<QuantType>,

    /// The text to measure on, UTF-8
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,

    /// Compare with REFERENCE, such as the model's unquantised source: a .chaski file, a checkpoint
    /// folder or a GGUF file (these are converted once without loss, to f32 unless all their
    /// matrices are f16 or all bf16)
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) against: Option<String>,

    /// Measure the error that each role and each layer adds: all but its matrices as in REFERENCE
    #[arg(long, requires = "against")]
    pub(crate) per_layer: bool,

    /// Write the figures into MODEL's file, as its certificate, with the error of each role on the
    /// first 8 chunks
    #[arg(long, requires = "against", conflicts_with = "round_activations")]
    pub(crate) certify: bool,

    /// Let MODEL's float matrices multiply 8-bit activations, as quantised matrices do: what these
    /// cost by themselves
    #[arg(long)]
    pub(crate) round_activations: bool,

    /// Tokens of a chunk; the last half of each is scored
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = from_to(4, MAX_CONTEXT as u64))]
    pub(crate) chunk: usize,

    /// Measure only the first N chunks
    #[arg(long, value_name = "N", value_parser = from_to(1, u64::MAX))]
    pub(crate) chunks: Option<usize>,

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

    #[command(flatten)]
    pub(crate) gpu: GpuArgs,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

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

/// `chaski models`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
