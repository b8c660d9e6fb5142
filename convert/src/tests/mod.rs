//! Tests of the conversion as a whole, on small checkpoints.

pub(crate) mod checkpoint;
mod conversion;
mod directory;
mod failure;
mod mapping;
pub(crate) mod runner;
mod stages;
