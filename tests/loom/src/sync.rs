//! What `src/backend/cpu/sync.rs` is to chaski.

pub(crate) use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::yield_now,
};
