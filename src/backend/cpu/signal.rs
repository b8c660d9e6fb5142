//! A number that threads wait for.

use std::sync::{
    PoisonError,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::backend::cpu::sync::{AtomicUsize, Condvar, Mutex, Ordering, spin_loop, yield_now};

/// How long a thread waits in which way before it parks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Looks without leaving the CPU: some tens of microseconds.
    spins: u32,
    /// Looks between which other threads may run.
    yields: u32,
}

impl Patience {
    /// For a team of `n_threads` where `n_cpus` can run at once.
    ///
    /// A team that fits spins and then parks. It does not yield: where a thread of another program
    /// is there to take the CPU, it keeps it for milliseconds, while a parked thread gets it back
    /// when it is woken. In a larger team the thread that takes it is one of the team, more likely
    /// than not, and the one that is waited for: so it yields, and does not spin.
    pub(crate) const fn new(n_threads: usize, n_cpus: usize) -> Self {
        if n_threads <= n_cpus {
            Self::of(2000, 0)
        } else {
            Self::of(0, 20)
        }
    }

    /// With so many looks of each kind.
    pub(crate) const fn of(spins: u32, yields: u32) -> Self {
        Self { spins, yields }
    }
}

/// Whether it is of use to be patient.
///
/// Work is shared out evenly, so who waited in vain waited for a thread that was not running:
/// another program has its CPU. To spin then keeps the system from seeing that a CPU is free, and to
/// yield gives it to that program for milliseconds; threads that park are placed anew whenever they
/// are woken. So after a wait in vain the next ones are short, for a number of waits that doubles
/// each time that patience is tried again in vain.
///
/// None of this changes what a wait gives, only how long it takes, so these are not the atomics that
/// loom follows.
#[derive(Debug, Default)]
struct Mood {
    /// Short waits that are left.
    n_short: AtomicU32,
    /// How many there were the last time.
    penalty: AtomicU32,
}

impl Mood {
    const MIN_PENALTY: u32 = 8;
    const MAX_PENALTY: u32 = 1024;

    /// The patience for the wait that begins, and whether it is all of it.
    fn patience(&self, all: Patience) -> (Patience, bool) {
        let n = self.n_short.load(Relaxed);
        if n == 0 {
            return (all, true);
        }
        self.n_short.store(n - 1, Relaxed);
        (Patience::of(all.spins / 32, 0), false)
    }

    /// A wait ended before the thread had to park.
    fn was_of_use(&self) {
        let penalty = self.penalty.load(Relaxed);
        if penalty > 0 && self.n_short.load(Relaxed) == 0 {
            self.penalty.store(penalty - 1, Relaxed);
        }
    }

    /// A wait did not, although it was patient.
    fn was_in_vain(&self) {
        if self.n_short.load(Relaxed) == 0 {
            let penalty = 2 * self.penalty.load(Relaxed);
            let penalty = penalty.clamp(Self::MIN_PENALTY, Self::MAX_PENALTY);
            self.penalty.store(penalty, Relaxed);
            self.n_short.store(penalty, Relaxed);
        }
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
    mood: Mood,
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
        let (patience, all) = self.mood.patience(patience);
        for _ in 0..patience.spins {
            let number = self.get();
            if wanted(number) {
                self.mood.was_of_use();
                return number;
            }
            spin_loop();
        }
        for _ in 0..patience.yields {
            let number = self.get();
            if wanted(number) {
                self.mood.was_of_use();
                return number;
            }
            yield_now();
        }
        if all {
            self.mood.was_in_vain();
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
    fn waits_are_short_for_longer_and_longer_while_patience_is_in_vain() {
        let (mood, all) = (Mood::default(), Patience::of(320, 7));
        let n_short = || {
            let is_short = |_: &u32| {
                let (Patience { spins, yields }, whole) = mood.patience(all);
                assert_eq!((spins, yields), if whole { (320, 7) } else { (10, 0) });
                !whole
            };
            (0..).take_while(is_short).count()
        };
        for want in [8, 16, 32, 64, 128, 256, 512, 1024, 1024] {
            mood.was_in_vain();
            // Another thread that waited at the same time.
            mood.was_in_vain();
            assert_eq!(n_short(), want);
        }
        // Slowly forgiven.
        (0..1000).for_each(|_| mood.was_of_use());
        mood.was_in_vain();
        assert_eq!(n_short(), 48);
    }

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
