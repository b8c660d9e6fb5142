//! Runs language models that [`chaski_convert`] made, from a memory map.

pub mod backend;
pub mod bench;
pub mod catalog;
pub mod eval;
pub mod sampler;
pub mod weights;
