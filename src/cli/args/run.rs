//! `chaski run`, on the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, builder::NonEmptyStringValueParser};

use super::{GpuArgs, HostArgs, ModelArgs, SamplingArgs, SessionArgs, predict};

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
