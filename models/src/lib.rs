//! What a model is.
//!
//! * [`TokenId`]: a token's number.

pub mod chat;
mod token_id;
pub mod tokenizer;

pub use token_id::TokenId;
