//! The primitives that the team's protocols are made of.
//!
//! `signal`, `barrier` and `shared::lend` take them from here and from nowhere else, so that
//! `tests/loom` can compile the same files over loom's and walk through their interleavings.

pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::yield_now,
};

/// A cell whose content is reached by pointers that last as long as a closure: the form in which
/// loom can watch them.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// For reading.
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// For writing.
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
