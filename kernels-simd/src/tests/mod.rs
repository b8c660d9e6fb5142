//! Every operation of every level that this CPU has, against the oracle.

mod attention;
mod elementwise;
mod levels;
mod matmul;

use std::fmt::Display;

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
