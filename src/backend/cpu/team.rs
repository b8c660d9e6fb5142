//! A team of threads that runs one closure together, with a barrier.

use std::{
    any::Any,
    error::Error,
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Turns of the barrier that are spun before the thread yields, and yields before it parks.
const SPINS: u32 = 4096;
const YIELDS: u32 = 256;

/// A fixed number of threads.
#[derive(Debug)]
pub struct Team {
    /// `None` for a team of one, which is the caller.
    pool: Option<rayon::ThreadPool>,
    barrier: Barrier,
}

/// Why a team did not finish what it was given.
#[derive(Debug)]
#[non_exhaustive]
pub enum TeamError {
    /// The threads could not be started.
    Start {
        /// How many were asked for.
        threads: usize,
        /// The cause.
        source: rayon::ThreadPoolBuildError,
    },
    /// A thread panicked; the others stopped at the next barrier.
    Panicked {
        /// What it said.
        message: String,
    },
}

impl fmt::Display for TeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { threads, .. } => write!(f, "{threads} threads could not be started"),
            Self::Panicked { message } => write!(f, "a worker thread panicked: {message}"),
        }
    }
}

impl Error for TeamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Start { source, .. } => Some(source),
            Self::Panicked { .. } => None,
        }
    }
}

/// Another worker panicked: leave at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// One thread's part in a run.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    index: usize,
    n: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// This thread's number, from 0.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Threads of the team.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Waits for all others; what they wrote before is visible after.
    ///
    /// # Errors
    ///
    /// [`Poisoned`] if one of them panicked.
    pub fn wait(&self) -> Result<(), Poisoned> {
        self.barrier.wait()
    }

    /// This thread's contiguous share of `units`. Shares differ by one at most.
    pub const fn share(&self, units: usize) -> Range<usize> {
        units * self.index / self.n..units * (self.index + 1) / self.n
    }
}

impl Team {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    ///
    /// [`TeamError::Start`].
    pub fn new(threads: usize) -> Result<Self, TeamError> {
        let threads = threads.max(1);
        let pool = if threads == 1 {
            None
        } else {
            let builder = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|i| format!("chaski-{i}"));
            Some(builder.build().map_err(|source| TeamError::Start { threads, source })?)
        };
        Ok(Self { pool, barrier: Barrier::new(threads) })
    }

    /// Number of threads.
    pub const fn n(&self) -> usize {
        self.barrier.n
    }

    /// Runs `work` once on every thread and waits for all.
    ///
    /// A worker that gets [`Poisoned`] from its barrier returns it; it is not an error of its own.
    ///
    /// # Errors
    ///
    /// [`TeamError::Panicked`] with the first panic's message.
    pub fn run<F>(&mut self, work: F) -> Result<(), TeamError>
    where
        F: Fn(Member<'_>) -> Result<(), Poisoned> + Sync,
    {
        let barrier = &self.barrier;
        let one = |index: usize| -> Option<String> {
            let member = Member { index, n: barrier.n, barrier };
            match catch_unwind(AssertUnwindSafe(|| work(member))) {
                Ok(Ok(()) | Err(Poisoned)) => None,
                Err(panic) => {
                    barrier.poison();
                    Some(message(&*panic))
                }
            }
        };
        let panics = match &self.pool {
            None => vec![one(0)],
            Some(pool) => pool.broadcast(|context| one(context.index())),
        };
        match panics.into_iter().flatten().next() {
            None => Ok(()),
            Some(message) => {
                self.barrier = Barrier::new(self.barrier.n);
                Err(TeamError::Panicked { message })
            }
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

/// Lets `n` threads pass only together: spins, then yields, then parks.
#[derive(Debug)]
struct Barrier {
    n: usize,
    arrived: AtomicUsize,
    epoch: AtomicUsize,
    poisoned: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    woken: Condvar,
    spins: u32,
}

impl Barrier {
    fn new(n: usize) -> Self {
        // More threads than processors: whoever spins keeps the others from arriving.
        let alone = thread::available_parallelism().is_ok_and(|p| p.get() >= n);
        Self {
            n,
            arrived: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            woken: Condvar::new(),
            spins: if alone { SPINS } else { 0 },
        }
    }

    fn wait(&self) -> Result<(), Poisoned> {
        if self.n == 1 {
            return Ok(());
        }
        let epoch = self.epoch.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) + 1 == self.n {
            self.arrived.store(0, SeqCst);
            self.epoch.store(epoch.wrapping_add(1), SeqCst);
            self.wake();
        } else {
            self.wait_past(epoch);
        }
        if self.poisoned.load(SeqCst) { Err(Poisoned) } else { Ok(()) }
    }

    fn wait_past(&self, epoch: usize) {
        let passed = || self.epoch.load(SeqCst) != epoch || self.poisoned.load(SeqCst);
        for i in 0..self.spins + YIELDS {
            if passed() {
                return;
            }
            if i < self.spins {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        // `sleepers` is raised before the condition is looked at again, and the waker changes the
        // condition before it looks at `sleepers` (both sequentially consistent), so one sees the
        // other; the lock closes the gap between looking and sleeping.
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, SeqCst);
        while !passed() {
            guard = self.woken.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.woken.notify_all();
        }
    }

    fn poison(&self) {
        self.poisoned.store(true, SeqCst);
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_the_barrier_before_all_arrived() {
        for n in [1, 2, 3, 8] {
            let mut team = Team::new(n).unwrap();
            let counts: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
            team.run(|member| {
                for count in &counts {
                    count.fetch_add(1, SeqCst);
                    member.wait()?;
                    assert_eq!(count.load(SeqCst), n);
                    member.wait()?;
                }
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_team_lives_on() {
        for n in [1, 2, 4] {
            let mut team = Team::new(n).unwrap();
            for round in 0..3 {
                let err = team
                    .run(|member| {
                        member.wait()?;
                        assert!(member.index() != n - 1, "worker {} round {round}", n - 1);
                        for _ in 0..10 {
                            member.wait()?;
                        }
                        Ok(())
                    })
                    .unwrap_err();
                assert!(err.to_string().contains(&format!("round {round}")), "{err}");
                team.run(|member| member.wait()).unwrap();
            }
        }
    }

    #[test]
    fn shares_cover_all_units_once() {
        for (units, n) in [(0, 3), (1, 4), (7, 2), (100, 8)] {
            let barrier = Barrier::new(n);
            let mut next = 0;
            for index in 0..n {
                let share = Member { index, n, barrier: &barrier }.share(units);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, units);
        }
    }
}
