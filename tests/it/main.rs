//! Tests across the crates, in one binary.

mod batch;
mod equality;
mod generate;
mod tiny;
