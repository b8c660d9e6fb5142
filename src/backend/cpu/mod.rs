//! The CPU backend.

pub(crate) mod shared;
mod signal;
pub mod team;
