//! The CPU: a team of threads that walks a whole pass together.
//!
//! * [`team`]: the threads and the barrier between steps; `signal`: how they wait.
//! * `schedule`: the steps of a pass and who may touch what in each; `shared`: buffers that keep to
//!   it, the only `unsafe` code of the backend.
//! * [`kv`]: the KV cache, a pool of pages.
//! * [`buffers`]: everything else that a pass writes, allocated once.
//! * `worker`: what one thread does in each phase.

pub mod buffers;
pub mod kv;
mod pass;
mod schedule;
mod shared;
mod signal;
pub mod team;
mod worker;

pub use buffers::PassLimits;
pub use kv::KvCache;
pub use pass::{CpuBackend, CpuBytes};
pub use team::{Team, TeamError};
