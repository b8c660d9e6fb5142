//! A number that threads wait for.

use std::{
    hint,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// How long a thread waits in which way before it parks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Looks without leaving the CPU: some tens of microseconds.
    spins: u32,
    /// Looks between which other threads may run: some hundred microseconds.
    yields: u32,
}

impl Patience {
    /// For a team of `n_threads` where `n_cpus` can run at once.
    ///
    /// A thread that spins while the one it waits for has no CPU only delays it, so a team larger
    /// than the CPUs parks almost at once.
    pub(crate) const fn new(n_threads: usize, n_cpus: usize) -> Self {
        if n_threads <= n_cpus {
            Self {
                spins: 2000,
                yields: 200,
            }
        } else {
            Self {
                spins: 0,
                yields: 4,
            }
        }
    }
}

/// A number that threads wait for: they spin, then yield, then park.
///
/// Aligned so that two signals never share a cache line (128 bytes on Apple's cores).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Signal {
    value: AtomicUsize,
    n_parked: AtomicUsize,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Signal {
    /// The number. What its setter wrote before is visible then.
    pub(crate) fn get(&self) -> usize {
        self.value.load(Ordering::Acquire)
    }

    /// Adds to the number and wakes who waits; returns what it was.
    pub(crate) fn add(&self, n: usize) -> usize {
        let old = self.value.fetch_add(n, Ordering::SeqCst);
        self.wake();
        old
    }

    /// Sets bits of the number and wakes who waits.
    pub(crate) fn set_bits(&self, bits: usize) {
        self.value.fetch_or(bits, Ordering::SeqCst);
        self.wake();
    }

    /// Sets the number while nobody waits for it.
    pub(crate) fn reset(&self, n: usize) {
        self.value.store(n, Ordering::SeqCst);
    }

    /// The number, as soon as it is `wanted`.
    pub(crate) fn wait(&self, patience: Patience, wanted: impl Fn(usize) -> bool) -> usize {
        for _ in 0..patience.spins {
            let value = self.get();
            if wanted(value) {
                return value;
            }
            hint::spin_loop();
        }
        for _ in 0..patience.yields {
            let value = self.get();
            if wanted(value) {
                return value;
            }
            thread::yield_now();
        }
        // The setter changes the number and then reads `n_parked`, this thread raises `n_parked` and
        // then reads the number, all sequentially consistent: at least one of them sees the other.
        // If the setter sees this thread, it rings under the lock, so not between the last look at
        // the number and the wait.
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.n_parked.fetch_add(1, Ordering::SeqCst);
        let value = loop {
            let value = self.value.load(Ordering::SeqCst);
            if wanted(value) {
                break value;
            }
            guard = self
                .bell
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.n_parked.fetch_sub(1, Ordering::SeqCst);
        value
    }

    fn wake(&self) {
        if self.n_parked.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_sees_the_number_whether_it_spins_yields_or_parks() {
        for patience in [
            Patience {
                spins: u32::MAX,
                yields: 0,
            },
            Patience {
                spins: 0,
                yields: u32::MAX,
            },
            Patience {
                spins: 0,
                yields: 0,
            },
        ] {
            let (ping, pong) = (Signal::default(), Signal::default());
            thread::scope(|s| {
                s.spawn(|| {
                    for i in 1..=200 {
                        assert_eq!(ping.wait(patience, |v| v >= i), i, "{patience:?}");
                        pong.add(1);
                    }
                });
                for i in 1..=200 {
                    assert_eq!(ping.add(1), i - 1);
                    pong.wait(patience, |v| v == i);
                }
            });
        }
    }
}
