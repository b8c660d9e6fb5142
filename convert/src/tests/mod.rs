//! Tests of the conversion as a whole, on small checkpoints.

mod checkpoint;
mod conversion;
mod directory;
mod failure;
mod mapping;
mod stages;
