//! `chaski eval`, on the command line.

use std::path::PathBuf;

use chaski::session::MAX_CONTEXT;
use chaski_quant::QuantType;
use clap::Args as ClapArgs;

use super::{GpuArgs, KvArg, MAX_THREADS, from_to};

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
