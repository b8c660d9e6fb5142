//! Tests across the crates, in one binary.

mod batch;
mod cli;
mod equality;
mod generate;
mod tiny;
