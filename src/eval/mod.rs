//! How good a model is on a text: perplexity, and how far it is from a reference.
//!
//! The text is tokenised once, as raw text with the tokenizer's own beginning-of-text token, and cut
//! into [`Chunks`]; a rest is dropped. Each chunk is read from an empty context, its first token
//! replaced by the beginning-of-text token if the tokenizer has one. From position `chunk / 2` on,
//! each position but the last is scored on the token that follows it. This is llama-perplexity's
//! method.
//!
//! * [`perplexity`] scores one model.
//! * [`compare`] scores a model beside its reference, both reading the same chunk in turn, so that
//!   no file of logits is needed; its [`Report`] has the blocks of llama-perplexity's
//!   `--kl-divergence`.
//! * [`compare_parts`] tells what each role and each layer adds.
//!
//! All is computed in binary64 by `libm`, sums over the vocabulary and over positions in order: the
//! figures are the same bits at any number of threads.

mod chunks;
mod compare;
mod parts;
mod perplexity;
mod position;
mod report;
mod statistics;

pub use chunks::{ChunkError, Chunks, EvalError, Reader};
pub use compare::{Comparison, compare};
pub use parts::{Part, PartsError, check_parts, compare_parts};
pub use perplexity::{Perplexity, perplexity};
pub(crate) use position::Expected;
pub use position::{Position, log_normalizer, log_prob};
pub use report::{KlDivergence, PerplexityStatistics, Report, TokenProbability};
pub use statistics::{Estimate, Percentiles};
