//! Any bytes as a container; see README.md.
#![no_main]

#[path = "../../quant/tests/common/mod.rs"]
mod common;
#[path = "../../quant/tests/common/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drive::drive(input));
