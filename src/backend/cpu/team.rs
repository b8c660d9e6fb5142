//! Threads that walk through a pass together, with a barrier between two steps.

use std::{
    error::Error,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::{
    shared::lend::{JobPanic, Lender},
    signal::{Patience, Signal},
};

/// Threads that run a job together: the caller's and `n - 1` that rayon owns.
///
/// One dispatch starts a whole pass; inside it the workers meet at barriers. A worker that panics
/// poisons the barrier, so that all others return, and [`Team::run`] tells what it said.
#[derive(Debug)]
pub struct Team {
    lender: Lender,
    barrier: Barrier,
    /// Owns the threads; they leave when the lender is dropped.
    _pool: Option<ThreadPool>,
}

/// Why a team could not be made or did not finish.
#[derive(Debug)]
#[non_exhaustive]
pub enum TeamError {
    /// The threads could not be started.
    Spawn {
        /// How many were asked for.
        n_threads: usize,
        /// What the system said.
        cause: ThreadPoolBuildError,
    },
    /// A worker panicked; what the pass has written means nothing.
    Panicked {
        /// Its number, from 0.
        worker: usize,
        /// What it said.
        message: String,
    },
}

impl fmt::Display for TeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { n_threads, .. } => write!(f, "could not start {n_threads} threads"),
            Self::Panicked { worker, message } => {
                write!(f, "worker thread {worker} panicked: {message}")
            }
        }
    }
}

impl Error for TeamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Spawn { cause, .. } => Some(cause),
            Self::Panicked { .. } => None,
        }
    }
}

/// The pass is over before its end, because another worker panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// One worker of a running team.
#[derive(Debug)]
pub struct Member<'a> {
    index: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// Its number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Workers of the team.
    pub fn n_workers(&self) -> usize {
        self.barrier.n
    }

    /// Waits until every worker has come here. What they wrote before is visible after.
    ///
    /// # Errors
    ///
    /// If a worker panicked: this one must return.
    pub fn meet(&mut self) -> Result<(), Poisoned> {
        self.barrier.meet()
    }
}

impl Team {
    /// A team of `n_threads` (at least 1) on a machine where `n_cpus` can run at once.
    ///
    /// # Errors
    ///
    /// If the threads cannot be started.
    pub fn new(n_threads: usize, n_cpus: usize) -> Result<Self, TeamError> {
        let n_threads = n_threads.max(1);
        let patience = Patience::new(n_threads, n_cpus);
        let (lender, helpers) = Lender::new(n_threads - 1, patience);
        let pool = if helpers.is_empty() {
            None
        } else {
            let builder = ThreadPoolBuilder::new()
                .num_threads(n_threads - 1)
                .thread_name(|i| format!("chaski-worker-{}", i + 1));
            Some(
                builder
                    .build()
                    .map_err(|cause| TeamError::Spawn { n_threads, cause })?,
            )
        };
        for helper in helpers {
            // As many helpers as threads, and none returns before the team ends: each has its own.
            if let Some(pool) = &pool {
                pool.spawn(|| helper.serve());
            }
        }
        Ok(Self {
            lender,
            barrier: Barrier::new(n_threads, patience),
            _pool: pool,
        })
    }

    /// Number of threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.barrier.n
    }

    /// Runs `job` on every thread of the team at once, each time with another [`Member`]; returns
    /// when all have returned. Nothing is allocated.
    ///
    /// # Errors
    ///
    /// If a job panicked. The team can be used again.
    pub fn run(&mut self, job: impl Fn(Member<'_>) + Sync) -> Result<(), TeamError> {
        self.barrier.reset();
        let barrier = &self.barrier;
        let run = |index| {
            let mut guard = PoisonOnUnwind {
                barrier,
                returned: false,
            };
            job(Member { index, barrier });
            guard.returned = true;
        };
        self.lender.run(&run).map_err(
            |JobPanic {
                 index: worker,
                 message,
             }| TeamError::Panicked { worker, message },
        )
    }
}

struct PoisonOnUnwind<'a> {
    barrier: &'a Barrier,
    returned: bool,
}

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        if !self.returned {
            self.barrier.poison();
        }
    }
}

/// Set in a barrier's round number once a worker panicked.
const POISON: usize = 1 << (usize::BITS - 1);

#[derive(Debug)]
struct Barrier {
    n: usize,
    patience: Patience,
    n_arrived: AtomicUsize,
    /// How often all have met, and [`POISON`].
    round: Signal,
}

impl Barrier {
    fn new(n: usize, patience: Patience) -> Self {
        Self {
            n,
            patience,
            n_arrived: AtomicUsize::new(0),
            round: Signal::default(),
        }
    }

    /// Makes it new; only while no worker runs.
    fn reset(&mut self) {
        self.n_arrived.store(0, Ordering::Relaxed);
        self.round.reset(0);
    }

    fn poison(&self) {
        self.round.set_bits(POISON);
    }

    fn meet(&self) -> Result<(), Poisoned> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// More threads than any test machine has CPUs, and fewer.
    const CASES: [(usize, usize); 6] = [(1, 1), (2, 2), (2, 1), (3, 3), (4, 1), (16, 2)];

    #[test]
    fn what_was_written_before_a_barrier_is_seen_after_it() {
        for (n_threads, n_cpus) in CASES {
            let mut team = Team::new(n_threads, n_cpus).unwrap();
            assert_eq!(team.n_threads(), n_threads);
            for _ in 0..20 {
                let cells: Vec<AtomicU64> = (0..n_threads).map(|_| AtomicU64::new(0)).collect();
                team.run(|mut member| {
                    for round in 1..=50 {
                        cells[member.index()].store(round, Ordering::Relaxed);
                        member.meet().unwrap();
                        for cell in &cells {
                            assert_eq!(cell.load(Ordering::Relaxed), round, "{n_threads} threads");
                        }
                        member.meet().unwrap();
                    }
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn a_panic_ends_the_pass_with_its_message_and_the_team_works_again() {
        for (n_threads, n_cpus) in CASES {
            let mut team = Team::new(n_threads, n_cpus).unwrap();
            for culprit in 0..n_threads {
                let n_poisoned = AtomicUsize::new(0);
                let result = team.run(|mut member| {
                    // A worker may learn of the panic while it is still on its way out of here.
                    let met = member.meet();
                    assert!(member.index() != culprit, "deliberate panic of {culprit}");
                    // The others never meet again; without the poison they would wait forever.
                    if met.and_then(|()| member.meet()) == Err(Poisoned) {
                        n_poisoned.fetch_add(1, Ordering::Relaxed);
                    }
                });
                match result {
                    Err(TeamError::Panicked { worker, message }) => {
                        assert_eq!(worker, culprit);
                        assert_eq!(message, format!("deliberate panic of {culprit}"));
                    }
                    other => panic!("expected a panic of {culprit}, got {other:?}"),
                }
                assert_eq!(n_poisoned.into_inner(), n_threads - 1);
                let n_met = AtomicUsize::new(0);
                team.run(|mut member| {
                    member.meet().unwrap();
                    n_met.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                assert_eq!(n_met.into_inner(), n_threads);
            }
        }
    }

    #[test]
    fn every_worker_has_its_own_number() {
        let mut team = Team::new(5, 2).unwrap();
        let seen = AtomicUsize::new(0);
        team.run(|member| {
            assert_eq!(member.n_workers(), 5);
            assert_eq!(
                seen.fetch_or(1 << member.index(), Ordering::Relaxed) >> member.index() & 1,
                0
            );
        })
        .unwrap();
        assert_eq!(seen.into_inner(), 0b11111);
    }
}
