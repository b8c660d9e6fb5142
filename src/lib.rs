//! Runs language models that [`chaski_convert`] made, from a memory map.
//!
//! ```
//! use std::sync::Arc;
//!
//! use chaski::{
//!     Model, ModelOptions, Session, SessionOptions,
//!     generate::{GenerateOptions, Generation},
//!     sampler::{Sampler, SamplerOptions},
//! };
//! use chaski_models::tokenizer::{Specials, TextStart};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("tiny.chaski");
//! # chaski_models::testing::write_checkpoint(
//! #     &dir.path().join("tiny"),
//! #     chaski_models::testing::Variant::Llama,
//! #     &Default::default(),
//! # )?;
//! # let source = chaski_convert::source::open(&dir.path().join("tiny"))?;
//! # let recipe = chaski_convert::Recipe::named("q8")?;
//! # let options = chaski_convert::ConvertOptions::new(recipe);
//! # chaski_convert::convert(&*source, &path, &options, &chaski_convert::Silent)?;
//! // A model is a mapped file; sessions, also of several threads, share it.
//! let model = Arc::new(Model::open(&path, &ModelOptions::default())?);
//! let tokenizer = model.tokenizer()?.tokenizer;
//!
//! // A session allocates all that it will ever need, and reads a text.
//! let options = SessionOptions { context_len: Some(128), ..SessionOptions::default() };
//! let mut session = Session::new(&model, &options)?;
//! let mut prompt: Vec<_> = tokenizer.bos().into_iter().collect();
//! prompt.extend(tokenizer.encode("the man and the sea", Specials::AsText)?);
//! session.set_text(&prompt)?;
//!
//! // An answer is an iterator of tokens with their text.
//! let options = SamplerOptions { seed: 7, ..SamplerOptions::default() };
//! let mut sampler = Sampler::new(options, model.config().vocab_size)?;
//! let options = GenerateOptions {
//!     max_tokens: Some(16),
//!     end_ids: model.metadata().end_ids(),
//!     // The answer goes on in the middle of a text: a space at its start is part of it.
//!     start: TextStart::Continued,
//!     ..GenerateOptions::default()
//! };
//! let mut answer = String::new();
//! for piece in Generation::new(&mut session, &mut sampler, &tokenizer, options)? {
//!     answer += &piece?.text;
//! }
//! # assert!(!answer.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! * [`Model`]: a file, mapped and checked; [`weights`]: its tensors in their places.
//! * [`Session`]: a text or several, their keys and values, and the logits after each. The logits are
//!   the same bits whatever the number of threads and however the text was read.
//! * [`sampler`], [`generate`], [`stop`]: from logits to an answer.
//! * [`plan`]: the memory that a session takes, before it is made.
//! * [`backend`]: the machines; [`os`]: what only some systems tell.
//! * [`eval`], [`mod@bench`], [`catalog`]: what the command line is made of.
//!
//! Limits: models that fit the file's architectures, and CPUs of 64 bits.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("chaski maps model files whole, which needs a 64-bit target");

pub mod backend;
pub mod bench;
pub mod catalog;
pub mod certify;
pub mod eval;
pub mod generate;
pub mod model;
pub mod os;
pub mod plan;
pub mod runner;
pub mod sampler;
pub mod self_test;
pub mod session;
pub mod stop;
pub mod weights;

pub use chaski_models::tokenizer::{Specials, TextStart};
pub use model::{Model, ModelError, ModelOptions, Residence};
pub use session::{Session, SessionError, SessionOptions};
