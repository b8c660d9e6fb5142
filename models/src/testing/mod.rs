//! Seeded tiny models of each architecture, as configs, weights and checkpoints. For tests.
//!
//! The numbers are fixed for ever: golden files depend on them. Every weight is exact in F32, BF16
//! and F16, so a checkpoint of any of these types holds the same model.

mod checkpoint;
#[cfg(test)]
mod golden;
mod tokenizer;
mod variant;
mod weights;

pub use checkpoint::{CheckpointOptions, FloatType, write_checkpoint};
pub use tokenizer::{TINY_CHAT_TEMPLATE, tiny_tokenizer};
pub use variant::Variant;
pub use weights::{Rng, pack_floats, weights};
