//! A team of threads that runs one closure together, with a barrier.
//!
//! rayon owns the threads; each of them stays in one loop for as long as the team lives and waits
//! there for work, so that handing out work allocates nothing and takes no lock. The caller is the
//! first member. Whoever waits spins, then yields, then parks.
#![allow(unsafe_code)]

use std::{
    any::Any,
    cell::UnsafeCell,
    error::Error,
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Looks at a condition before a waiting thread yields, and yields before it parks.
const SPINS: u32 = 20_000;
const YIELDS: u32 = 256;

/// A fixed number of threads, the caller among them.
pub struct Team {
    inner: Arc<Inner>,
    /// `None` for a team of one.
    _pool: Option<rayon::ThreadPool>,
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("n", &self.n())
            .finish_non_exhaustive()
    }
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

/// Another member panicked: leave at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// One thread's part in a run.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    index: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// This thread's number, from 0.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Threads of the team.
    pub const fn n(&self) -> usize {
        self.barrier.n
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
        let n = self.barrier.n;
        units * self.index / n..units * (self.index + 1) / n
    }
}

type Work<'a> = dyn Fn(Member<'_>) -> Result<(), Poisoned> + Sync + 'a;

/// What the members share.
struct Inner {
    barrier: Barrier,
    /// The work of the current run; null between runs.
    work: UnsafeCell<Option<*const Work<'static>>>,
    /// Raised when there is work.
    generation: AtomicUsize,
    /// Members other than the caller that are done with it.
    done: AtomicUsize,
    quit: AtomicBool,
    started: Signal,
    finished: Signal,
    panic: Mutex<Option<String>>,
}

// SAFETY: `work` is written by the caller of `run` alone, while no member runs: before `generation`
// is raised and after `done` has reached its end. Members read it in between. What it points to is
// `Sync`.
unsafe impl Sync for Inner {}
// SAFETY: as above; the pointer is only followed during a run.
unsafe impl Send for Inner {}

impl Inner {
    fn call(&self, work: &Work<'_>, index: usize) {
        let member = Member {
            index,
            barrier: &self.barrier,
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(member))) {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| message(&*panic));
            drop(first);
            self.barrier.poison();
        }
    }

    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            let ready = || self.quit.load(SeqCst) || self.generation.load(SeqCst) != seen;
            self.started.wait_until(self.barrier.spins, ready);
            if self.quit.load(SeqCst) {
                return;
            }
            seen = self.generation.load(SeqCst);
            // SAFETY: the generation was raised after the pointer was written, and it stays as it
            // is until this member has raised `done`.
            if let Some(work) = unsafe { *self.work.get() } {
                // SAFETY: `run` does not return, and so the closure lives, before `done` is full.
                self.call(unsafe { &*work }, index);
            }
            self.done.fetch_add(1, SeqCst);
            self.finished.wake();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.inner.quit.store(true, SeqCst);
        self.inner.started.wake();
    }
}

impl Team {
    /// Starts a team of `threads` (at least one); the caller of [`run`](Self::run) is one of them.
    ///
    /// # Errors
    ///
    /// [`TeamError::Start`].
    pub fn new(threads: usize) -> Result<Self, TeamError> {
        let threads = threads.max(1);
        let inner = Arc::new(Inner {
            barrier: Barrier::new(threads),
            work: UnsafeCell::new(None),
            generation: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
            started: Signal::default(),
            finished: Signal::default(),
            panic: Mutex::new(None),
        });
        let pool = if threads == 1 {
            None
        } else {
            let builder = rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|i| format!("chaski-{}", i + 1));
            let pool = builder
                .build()
                .map_err(|source| TeamError::Start { threads, source })?;
            let shared = Arc::clone(&inner);
            pool.spawn_broadcast(move |context| shared.serve(context.index() + 1));
            Some(pool)
        };
        Ok(Self { inner, _pool: pool })
    }

    /// Number of threads.
    pub fn n(&self) -> usize {
        self.inner.barrier.n
    }

    /// Runs `work` once on every thread and waits for all.
    ///
    /// A member that gets [`Poisoned`] from its barrier returns it; it is not an error of its own.
    ///
    /// # Errors
    ///
    /// [`TeamError::Panicked`] with the first panic's message.
    pub fn run<F>(&mut self, work: F) -> Result<(), TeamError>
    where
        F: Fn(Member<'_>) -> Result<(), Poisoned> + Sync,
    {
        let inner = &*self.inner;
        let work: &Work<'_> = &work;
        let others = inner.barrier.n - 1;
        // SAFETY: only the lifetime is changed. The pointer is followed by members between the
        // generation's rise and their rise of `done`, and this function waits for all of these.
        let erased = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: no member runs: `&mut self` excludes another run, and the last one ended.
        unsafe { *inner.work.get() = Some(erased) };
        inner.done.store(0, SeqCst);
        inner.generation.fetch_add(1, SeqCst);
        inner.started.wake();
        inner.call(work, 0);
        let all = || inner.done.load(SeqCst) == others;
        inner.finished.wait_until(inner.barrier.spins, all);
        // SAFETY: every member is done.
        unsafe { *inner.work.get() = None };
        if !inner.barrier.is_poisoned() {
            return Ok(());
        }
        inner.barrier.reset();
        let mut panic = inner.panic.lock().unwrap_or_else(PoisonError::into_inner);
        let message = panic.take().unwrap_or_else(|| "no message".to_owned());
        Err(TeamError::Panicked { message })
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

/// Threads that wait for a condition on atomics.
#[derive(Debug, Default)]
struct Signal {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    woken: Condvar,
}

impl Signal {
    /// Returns once `ready` holds: spins, then yields, then parks until [`wake`](Self::wake).
    fn wait_until(&self, spins: u32, ready: impl Fn() -> bool) {
        for i in 0..spins + YIELDS {
            if ready() {
                return;
            }
            if i < spins {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        // `sleepers` is raised before the condition is looked at again, and the waker changes the
        // condition before it looks at `sleepers` (all sequentially consistent), so one of them sees
        // the other; the lock closes the gap between looking and sleeping.
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, SeqCst);
        while !ready() {
            guard = self
                .woken
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// To be called after the condition was changed.
    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.woken.notify_all();
        }
    }
}

/// Lets `n` threads pass only together.
#[derive(Debug)]
struct Barrier {
    n: usize,
    arrived: AtomicUsize,
    epoch: AtomicUsize,
    poisoned: AtomicBool,
    passed: Signal,
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
            passed: Signal::default(),
            spins: if alone { SPINS } else { 0 },
        }
    }

    fn wait(&self) -> Result<(), Poisoned> {
        let epoch = self.epoch.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) + 1 == self.n {
            self.arrived.store(0, SeqCst);
            self.epoch.store(epoch.wrapping_add(1), SeqCst);
            self.passed.wake();
        } else {
            let past = || self.epoch.load(SeqCst) != epoch || self.poisoned.load(SeqCst);
            self.passed.wait_until(self.spins, past);
        }
        if self.poisoned.load(SeqCst) {
            Err(Poisoned)
        } else {
            Ok(())
        }
    }

    fn poison(&self) {
        self.poisoned.store(true, SeqCst);
        self.passed.wake();
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(SeqCst)
    }

    /// Makes a poisoned barrier usable; nobody may wait at it.
    fn reset(&self) {
        self.arrived.store(0, SeqCst);
        self.poisoned.store(false, SeqCst);
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
                let share = Member {
                    index,
                    barrier: &barrier,
                }
                .share(units);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, units);
        }
    }
}
