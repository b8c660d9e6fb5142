//! What the workers of a team share: the only `unsafe` code of the CPU backend.
//!
//! * [`lend`]: a closure that borrows, run by threads that live longer.

pub(crate) mod lend;
