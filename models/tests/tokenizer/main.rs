//! The tokenizer, against Hugging Face's own and against hostile files.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod equals_hf;
mod forms;
mod refuses;
mod specials;
mod stream;
