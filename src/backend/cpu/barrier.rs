//! Where the workers of a team meet.

use super::{
    signal::{FLAG, Patience, Signal},
    sync::{AtomicUsize, Ordering},
};

/// The pass is over before its end, because another worker panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// Set in a barrier's round number once a worker panicked.
const POISON: usize = FLAG;

/// A place that a worker leaves only when all have come.
#[derive(Debug)]
pub(super) struct Barrier {
    n: usize,
    patience: Patience,
    n_arrived: AtomicUsize,
    /// How often all have met, and [`POISON`].
    round: Signal,
}

impl Barrier {
    /// For `n` workers.
    pub(super) fn new(n: usize, patience: Patience) -> Self {
        Self {
            n,
            patience,
            n_arrived: AtomicUsize::new(0),
            round: Signal::default(),
        }
    }

    /// Makes it new; only while no worker runs.
    pub(super) fn reset(&mut self) {
        self.n_arrived.store(0, Ordering::Relaxed);
        self.round.reset(0);
    }

    /// Lets all go who are here or come, with an error.
    pub(super) fn poison(&self) {
        self.round.set_bits(POISON);
    }

    /// Number of workers.
    pub(super) const fn n(&self) -> usize {
        self.n
    }

    /// Waits until all have come. What they wrote before is visible after.
    pub(super) fn meet(&self) -> Result<(), Poisoned> {
        // Cannot change before this worker has arrived, but for the poison.
        let round = self.round.get();
        if round & POISON != 0 {
            return Err(Poisoned);
        }
        let now = if self.n_arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.n {
            // The last: all others wait for the round, none touches `n_arrived` before it rises.
            self.n_arrived.store(0, Ordering::Relaxed);
            self.round.add(1) + 1
        } else {
            self.round.wait(self.patience, |now| now != round)
        };
        if now & POISON == 0 {
            Ok(())
        } else {
            Err(Poisoned)
        }
    }
}

/// Poisons the barrier when a worker unwinds past it.
#[derive(Debug)]
pub(super) struct PoisonOnUnwind<'a> {
    barrier: &'a Barrier,
    returned: bool,
}

impl<'a> PoisonOnUnwind<'a> {
    pub(super) const fn new(barrier: &'a Barrier) -> Self {
        Self {
            barrier,
            returned: false,
        }
    }

    /// The worker came back as it should.
    pub(super) fn returned(mut self) {
        self.returned = true;
    }
}

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        if !self.returned {
            self.barrier.poison();
        }
    }
}
