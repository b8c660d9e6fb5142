//! A number that threads wait for.

use std::sync::PoisonError;

use crate::backend::cpu::sync::{AtomicUsize, Condvar, Mutex, Ordering, spin_loop, yield_now};

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
            Self::of(2000, 200)
        } else {
            Self::of(0, 4)
        }
    }

    /// With so many looks of each kind.
    pub(crate) const fn of(spins: u32, yields: u32) -> Self {
        Self { spins, yields }
    }
}

/// The largest bit of a signal's number: those who count use it as a flag beside the count.
pub(crate) const FLAG: usize = 1 << (usize::BITS - 2);

/// Set in a signal's word while a thread may be parked.
const PARKED: usize = 1;

/// A number that threads wait for: they spin, then yield, then park.
///
/// The number and whether somebody is parked are one word. So a change of the number, which is one
/// atomic operation, also tells whether there is anybody to wake, and a thread that is about to
/// park, which sets [`PARKED`] by such an operation, learns the number in it: the two
/// operations have an order, and whichever comes second sees the first.
///
/// Aligned so that two signals never share a cache line (128 bytes on Apple's cores).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Signal {
    /// Twice the number, and [`PARKED`].
    word: AtomicUsize,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Signal {
    /// The number. What its setter wrote before is visible then.
    pub(crate) fn get(&self) -> usize {
        self.word.load(Ordering::Acquire) >> 1
    }

    /// Adds to the number and wakes who waits; returns what it was.
    pub(crate) fn add(&self, n: usize) -> usize {
        let old = self.word.fetch_add(n << 1, Ordering::AcqRel);
        self.wake(old);
        old >> 1
    }

    /// Sets bits of the number and wakes who waits.
    pub(crate) fn set_bits(&self, bits: usize) {
        let old = self.word.fetch_or(bits << 1, Ordering::AcqRel);
        self.wake(old);
    }

    /// Sets the number while nobody waits for it.
    pub(crate) fn reset(&self, n: usize) {
        self.word.store(n << 1, Ordering::Release);
    }

    /// The number, as soon as it is `wanted`.
    pub(crate) fn wait(&self, patience: Patience, wanted: impl Fn(usize) -> bool) -> usize {
        for _ in 0..patience.spins {
            let number = self.get();
            if wanted(number) {
                return number;
            }
            spin_loop();
        }
        for _ in 0..patience.yields {
            let number = self.get();
            if wanted(number) {
                return number;
            }
            yield_now();
        }
        // Whoever changes the number after `PARKED` was set takes the lock, so not between the last
        // look at the number and the wait, and rings.
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let number = self.word.fetch_or(PARKED, Ordering::AcqRel) >> 1;
            if wanted(number) {
                // Others may be parked: the bit stays, at the cost of a bell that nobody hears.
                return number;
            }
            guard = self
                .bell
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes all, if the word that was changed said that there may be any.
    fn wake(&self, old: usize) {
        if old & PARKED != 0 {
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.word.fetch_and(!PARKED, Ordering::AcqRel);
            drop(guard);
            self.bell.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_waits_sees_the_number_whether_it_spins_yields_or_parks() {
        for patience in [
            Patience::of(u32::MAX, 0),
            Patience::of(0, u32::MAX),
            Patience::of(0, 0),
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
