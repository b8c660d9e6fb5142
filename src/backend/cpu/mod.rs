//! The CPU backend.

mod schedule;
pub(crate) mod shared;
mod signal;
pub mod team;
