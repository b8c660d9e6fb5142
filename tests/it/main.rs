//! Tests across the crates, in one binary.
#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

mod batch;
mod calibrate;
mod certify;
mod cli;
mod cuda;
mod equality;
mod generate;
mod sensitivity;
mod sequences;
mod shapes;
mod snapshots;
mod talk;
mod tiny;
