//! The CPU: a team of threads that walks a whole pass together.
//!
//! * [`team`]: the threads and the barrier between phases.
//! * [`shared`]: buffers whose parts have one writer each between two barriers.
//! * [`kv`]: the KV cache, a pool of pages.
//! * [`buffers`]: everything that a pass writes, allocated once.
//! * [`worker`]: what one thread does in each phase.

pub mod buffers;
pub mod kv;
pub mod shared;
pub mod team;
mod worker;

pub use buffers::{Buffers, PassLimits};
pub use kv::{KvCache, KvShape, OutOfPages};
pub use team::{Team, TeamError};
pub use worker::{PassError, forward};
