//! A closure that borrows, run by threads that live longer than it.
//!
//! The standard library's scoped threads would start threads for every pass, rayon's `broadcast`
//! allocates for every call. Here the threads stay, and a call hands them a pointer to the closure.

#![allow(unsafe_code)]

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
};

use crate::backend::cpu::{
    signal::{FLAG, Patience, Signal},
    sync::{Mutex, UnsafeCell},
};

/// Tells the helpers to leave.
const STOP: usize = FLAG;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// Who lends jobs to the [`Helper`]s.
#[derive(Debug)]
pub(crate) struct Lender {
    desk: Arc<Desk>,
}

/// The right to be one of the threads that a [`Lender`]'s jobs run on.
#[derive(Debug)]
pub(crate) struct Helper {
    desk: Arc<Desk>,
    /// From 1; the lender's thread is number 0.
    index: usize,
}

/// A panic inside a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobPanic {
    /// The thread's number.
    pub(crate) index: usize,
    /// What it said.
    pub(crate) message: String,
}

struct Desk {
    n_helpers: usize,
    patience: Patience,
    /// Number of jobs handed out, or [`STOP`].
    handed_out: Signal,
    /// How often a helper was done with a job, over all jobs.
    done: Signal,
    job: UnsafeCell<Option<*const Job<'static>>>,
    panic: Mutex<Option<JobPanic>>,
}

// SAFETY: all fields but `job` are `Sync`. `job` is written by the one `Lender` while no helper runs a
// job (see `Lender::run`), and read by helpers only after they saw `handed_out` rise, which happens
// after the write; the closure it points to is `Sync`.
unsafe impl Sync for Desk {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Desk {}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("n_helpers", &self.n_helpers)
            .finish_non_exhaustive()
    }
}

impl Desk {
    fn run_one(&self, job: &Job<'_>, index: usize) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(index))) {
            let message = message_of(payload.as_ref());
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(JobPanic { index, message });
            // Its destructor could panic in turn, and nothing may unwind past this function.
            std::mem::forget(payload);
        }
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

impl Lender {
    /// A lender and its helpers, numbers `1..=n_helpers`. Every helper must be brought to a thread
    /// of its own to [`Helper::serve`], or [`Self::run`] waits forever.
    pub(crate) fn new(n_helpers: usize, patience: Patience) -> (Self, Vec<Helper>) {
        let desk = Arc::new(Desk {
            n_helpers,
            patience,
            handed_out: Signal::default(),
            done: Signal::default(),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        let helpers = (1..=n_helpers)
            .map(|index| Helper {
                desk: Arc::clone(&desk),
                index,
            })
            .collect();
        (Self { desk }, helpers)
    }

    /// Runs `job(0)` here and `job(i)` on helper `i`, all at once; returns when all have returned.
    ///
    /// # Errors
    ///
    /// If a job panicked: the first that did.
    pub(crate) fn run(&mut self, job: &Job<'_>) -> Result<(), JobPanic> {
        let desk = &*self.desk;
        let before = desk.done.get();
        // SAFETY: the pointer's lifetime is stretched, and it is not used after this function: the
        // helpers use it only between `handed_out` rising and their raising of `done`, all of them
        // raise `done` below even if the job panics, and this function waits for all of them. It
        // cannot unwind before that: `run_one` catches what the job throws.
        let stretched = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: no helper reads `job` now: each raised `done` for the job before, and waits for
        // `handed_out`; there is one lender, borrowed mutably here.
        desk.job.with_mut(|slot| unsafe { *slot = Some(stretched) });
        if desk.n_helpers > 0 {
            desk.handed_out.add(1);
        }
        desk.run_one(job, 0);
        // `n_helpers` more than before; the number never wraps within a lifetime of the machine.
        desk.done
            .wait(desk.patience, |done| done == before + desk.n_helpers);
        desk.panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .map_or(Ok(()), Err)
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.desk.handed_out.set_bits(STOP);
    }
}

impl Helper {
    /// Runs every job that is lent, until the [`Lender`] is dropped.
    pub(crate) fn serve(self) {
        let desk = &*self.desk;
        let mut seen = 0;
        loop {
            let now = desk.handed_out.wait(desk.patience, |n| n != seen);
            if now & STOP != 0 {
                return;
            }
            seen = now;
            // SAFETY: the lender wrote `job` before it raised `handed_out`, and neither writes it
            // again nor lets the closure end until this helper raises `done`.
            let job = desk.job.with(|slot| unsafe { (*slot).map(|job| &*job) });
            if let Some(job) = job {
                desk.run_one(job, self.index);
            }
            desk.done.add(1);
        }
    }
}
