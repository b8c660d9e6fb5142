//! `chaski convert`, on the command line.

use std::path::PathBuf;

use chaski_convert::TypeOverride;
use chaski_quant::QuantType;
use clap::Args as ClapArgs;

use super::{MAX_THREADS, from_to};
use crate::cli::target::{Bytes, Fit};

/// `chaski convert`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConvertArgs {
    /// A Hugging Face folder (config.json, *.safetensors, tokenizer.json), a GGUF file, or a name
    /// of `chaski models`
    #[arg(value_name = "SRC")]
    pub(crate) src: String,

    /// The file to write [default: NAME-TYPE.chaski in the current folder, where TYPE is mixed-92MB
    /// after --size, --fit and --max-kld]
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

    /// Replace OUT, and the file of --plot, if it exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the plan (tensors, types, sizes, memory to run it) and write no model; --plot is drawn
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
