//! The protocols of the thread team over loom's primitives.
//!
//! The modules below are the very files that chaski is built from; only `sync`, from which they take
//! atomics, locks and cells, is another. A [`loom`] model runs a scene once for every order in which
//! its threads can see each other's atomic operations and fails where a cell is read while it may be
//! written, where all threads wait for each other, or where an assertion of the scene does not hold.
//!
//! `cargo test -p chaski-loom` runs all of them. The number of times that a thread is interrupted
//! where it need not be is bounded ([`PREEMPTIONS`]): without a bound two threads are all that can be
//! walked through in a lifetime, and what goes wrong at all goes wrong with two or three.

#![allow(dead_code, unreachable_pub)] // the files have parts that only chaski uses

mod sync;

#[path = "../../../src/backend/cpu/barrier.rs"]
mod barrier;
#[path = "../../../src/backend/cpu/shared/lend.rs"]
mod lend;
#[path = "../../../src/backend/cpu/signal.rs"]
mod signal;

/// The paths by which the files name each other.
mod backend {
    pub(crate) mod cpu {
        pub(crate) use crate::{signal, sync};
    }
}

mod scenes;
pub use scenes::{PREEMPTIONS, jobs_are_lent, poison_lets_all_go, signal_wakes, workers_meet};
