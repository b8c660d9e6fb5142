//! What the workers of a team share: the only `unsafe` code of the CPU backend.
//!
//! * [`lend`]: a closure that borrows, run by threads that live longer.
//! * [`view`]: buffers that all workers see, each element with one writer at a time.

pub(crate) mod lend;
pub(crate) mod view;
