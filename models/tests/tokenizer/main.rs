//! The tokenizer, against Hugging Face's own and against hostile files.

mod common;
mod equals_hf;
mod forms;
mod refuses;
mod specials;
mod stream;
