//! Every operation of every level that this CPU has, against the oracle.

mod attention;
mod elementwise;
mod levels;
mod matmul;

use std::{env, fmt::Display};

use proptest::test_runner::Config;

/// `cases` random cases, or as many as the environment says (fewer under an emulator).
fn random_cases(cases: u32) -> Config {
    if env::var_os("PROPTEST_CASES").is_some() {
        Config::default()
    } else {
        Config::with_cases(cases)
    }
}

/// Equal bits where the oracle's number is finite; else the kernel's must not be finite either.
fn assert_same(got: &[f32], want: &[f32], what: impl Display) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = if want.is_finite() {
            got.to_bits() == want.to_bits()
        } else {
            !got.is_finite()
        };
        assert!(same, "{what}: element {i} is {got:e}, want {want:e}");
    }
}
