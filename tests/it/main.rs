//! Tests across the crates, in one binary.

mod equality;
mod tiny;
