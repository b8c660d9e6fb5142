//! Threads that walk through a pass together, with a barrier between two steps.

use std::{
    error::Error,
    fmt,
    sync::{Arc, OnceLock},
    thread::{self, ThreadId},
};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

pub use super::barrier::Poisoned;
use super::{
    barrier::{Barrier, PoisonOnUnwind},
    shared::lend::{JobPanic, Lender},
    signal::Patience,
};
use crate::os::{self, OsError};

/// Threads that run a job together: the caller's and `n - 1` that rayon owns.
///
/// One dispatch starts a whole pass; inside it the workers meet at barriers. A worker that panics
/// poisons the barrier, so that all others return, and [`Team::run`] tells what it said.
#[derive(Debug)]
pub struct Team {
    lender: Lender,
    barrier: Barrier,
    /// The processor of the caller's thread, and the thread that is bound to it.
    pinned: Option<(usize, Option<ThreadId>)>,
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
    /// A thread could not be bound to a processor.
    Pin(OsError),
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
            Self::Pin(_) => f.write_str("the threads cannot be bound to processors"),
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
            Self::Pin(cause) => Some(cause),
            Self::Panicked { .. } => None,
        }
    }
}

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
        self.barrier.n()
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
        Self::start(n_threads, n_cpus, &[])
    }

    /// A team of `n_threads` (at least 1), worker `i` bound to processor `cpus[i]`; where there are
    /// fewer processors than threads, they share them in turn.
    ///
    /// Worker 0 is the thread that calls [`Team::run`]: it is bound at its first call, and what it
    /// starts afterwards inherits that.
    ///
    /// # Errors
    ///
    /// If a processor does not exist or may not be used, or the threads cannot be started.
    pub fn pinned(n_threads: usize, cpus: &[usize]) -> Result<Self, TeamError> {
        os::check_cpus(cpus).map_err(TeamError::Pin)?;
        let distinct = (0..cpus.len()).filter(|&i| !cpus[..i].contains(&cpus[i]));
        Self::start(n_threads, distinct.count().min(os::n_cpus()), cpus)
    }

    fn start(n_threads: usize, n_cpus: usize, cpus: &[usize]) -> Result<Self, TeamError> {
        let n_threads = n_threads.max(1);
        let cpu_of = |i: usize| (!cpus.is_empty()).then(|| cpus[i % cpus.len()]);
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
        let failed = Arc::new(OnceLock::new());
        for (i, helper) in helpers.into_iter().enumerate() {
            let (cpu, failed) = (cpu_of(i + 1), Arc::clone(&failed));
            // As many helpers as threads, and none returns before the team ends: each has its own.
            if let Some(pool) = &pool {
                pool.spawn(move || {
                    if let Some(Err(e)) = cpu.map(os::pin_thread) {
                        // The first error is the one to tell.
                        let _ = failed.set(e);
                    }
                    drop(failed);
                    helper.serve();
                });
            }
        }
        let mut team = Self {
            lender,
            barrier: Barrier::new(n_threads, patience),
            pinned: cpu_of(0).map(|cpu| (cpu, None)),
            _pool: pool,
        };
        if team.pinned.is_some() {
            // When all have done this they have tried to bind themselves.
            team.run(|_| ())?;
            if let Some(e) = Arc::into_inner(failed).and_then(OnceLock::into_inner) {
                return Err(TeamError::Pin(e));
            }
        }
        Ok(team)
    }

    /// Number of threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.barrier.n()
    }

    /// Runs `job` on every thread of the team at once, each time with another [`Member`]; returns
    /// when all have returned. Nothing is allocated.
    ///
    /// # Errors
    ///
    /// If a job panicked. The team can be used again.
    pub fn run(&mut self, job: impl Fn(Member<'_>) + Sync) -> Result<(), TeamError> {
        if let Some((cpu, bound)) = &mut self.pinned {
            let here = thread::current().id();
            if *bound != Some(here) {
                os::pin_thread(*cpu).map_err(TeamError::Pin)?;
                *bound = Some(here);
            }
        }
        self.barrier.reset();
        let barrier = &self.barrier;
        let run = |index| {
            let guard = PoisonOnUnwind::new(barrier);
            job(Member { index, barrier });
            guard.returned();
        };
        self.lender.run(&run).map_err(
            |JobPanic {
                 index: worker,
                 message,
             }| TeamError::Panicked { worker, message },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

    #[test]
    fn every_worker_is_bound_to_the_processor_that_its_place_in_the_list_says() {
        let Some(allowed) = os::allowed_cpus() else {
            return; // nothing to bind to on this system
        };
        for n_threads in [1, 2, 5] {
            // On a thread of its own: the binding of a test's thread would stay.
            thread::scope(|s| {
                s.spawn(|| {
                    let cpus: Vec<usize> = allowed.iter().rev().copied().take(3).collect();
                    let mut team = Team::pinned(n_threads, &cpus).unwrap();
                    team.run(|mut member| {
                        let want = cpus[member.index() % cpus.len()];
                        assert_eq!(os::allowed_cpus(), Some(vec![want]), "{n_threads} threads");
                        member.meet().unwrap();
                    })
                    .unwrap();
                });
            });
        }
        let missing = 1 << 20;
        let error = Team::pinned(2, &[allowed[0], missing]).unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(
            cause.contains("processor 1048576 does not exist"),
            "{cause}"
        );
    }
}
