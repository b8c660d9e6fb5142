//! What a model is.
//!
//! * [`TokenId`]: a token's number.

mod token_id;
pub mod tokenizer;

pub use token_id::TokenId;
