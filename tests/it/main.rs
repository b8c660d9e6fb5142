//! Tests across the crates, in one binary.

mod cli;
mod equality;
mod tiny;
