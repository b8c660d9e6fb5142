//! The CPU: a team of threads that walks a whole pass together.
//!
//! * [`team`]: the threads; `barrier`: what is between two steps; `signal`: how they wait; `sync`: what
//!   these are made of, so that they can be model-checked.
//! * `schedule`: the steps of a pass and who may touch what in each; `shared`: buffers that keep to
//!   it, the only `unsafe` code of the backend.
//! * [`kv`]: the KV cache, a pool of pages.
//! * [`buffers`]: everything else that a pass writes, allocated once.
//! * `worker`: what one thread does in each phase.

mod barrier;
pub mod buffers;
pub mod kv;
mod pass;
mod schedule;
mod shared;
mod signal;
mod sync;
pub mod team;
mod worker;

pub use buffers::PassLimits;
pub use kv::KvCache;
pub use pass::{CpuBackend, CpuBytes};
pub use team::{Team, TeamError};
