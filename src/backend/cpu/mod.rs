//! The CPU backend.

pub mod kv;
mod schedule;
pub(crate) mod shared;
mod signal;
pub mod team;
