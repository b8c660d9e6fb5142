//! Any bytes as a GGUF file; see README.md.
#![no_main]

#[path = "../../convert/tests/common/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    drive::drive(input);
});
