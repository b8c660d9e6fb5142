//! What the threads do.

use loom::{model::Builder, sync::Arc, thread};

use crate::{
    barrier::{Barrier, Poisoned},
    lend::Lender,
    signal::{Patience, Signal},
    sync::{AtomicUsize, Ordering},
};

/// How often a thread is interrupted at most where it need not be.
pub const PREEMPTIONS: usize = 2;

fn walk(scene: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(scene);
}

/// Threads that park at once, and threads that look twice before.
fn patiences() -> [Patience; 2] {
    [Patience::of(0, 0), Patience::of(1, 1)]
}

/// A thread that waits for a number sees it, and what was written before it, however it waits.
pub fn signal_wakes() {
    for patience in patiences() {
        walk(move || {
            let shared = Arc::new((Signal::default(), Signal::default(), AtomicUsize::new(0)));
            let there = Arc::clone(&shared);
            let other = thread::spawn(move || {
                let (ping, pong, cell) = &*there;
                assert_eq!(ping.wait(patience, |n| n == 1), 1);
                // Relaxed: the order comes from the signal alone.
                cell.store(7, Ordering::Relaxed);
                pong.add(1);
                assert_eq!(ping.wait(patience, |n| n >= 2), 2);
            });
            let (ping, pong, cell) = &*shared;
            ping.add(1);
            assert_eq!(pong.wait(patience, |n| n > 0), 1);
            assert_eq!(cell.load(Ordering::Relaxed), 7);
            ping.add(1);
            other
                .join()
                .unwrap_or_else(|_| panic!("the other thread failed"));
        });
    }
}

/// What each worker wrote before a barrier is seen by all after it, round after round.
pub fn workers_meet() {
    for (n, rounds, patience) in [
        (2, 3, Patience::of(1, 1)),
        (2, 3, Patience::of(0, 0)),
        (3, 2, Patience::of(0, 0)),
    ] {
        walk(move || {
            let barrier = Arc::new(Barrier::new(n, patience));
            let cells = Arc::new([0; 3].map(AtomicUsize::new));
            let worker = move |i: usize, barrier: &Barrier, cells: &[AtomicUsize; 3]| {
                for round in 1..=rounds {
                    // Relaxed: the order comes from the barrier alone.
                    cells[i].store(round, Ordering::Relaxed);
                    assert_eq!(barrier.meet(), Ok(()));
                    for cell in &cells[..n] {
                        let seen = cell.load(Ordering::Relaxed);
                        assert!(seen == round || seen == round + 1, "{seen} in {round}");
                    }
                }
            };
            let others: Vec<_> = (1..n)
                .map(|i| {
                    let (barrier, cells) = (Arc::clone(&barrier), Arc::clone(&cells));
                    thread::spawn(move || worker(i, &barrier, &cells))
                })
                .collect();
            worker(0, &barrier, &cells);
            for other in others {
                other.join().unwrap_or_else(|_| panic!("a worker failed"));
            }
        });
    }
}

/// A worker that does not come, but poisons the barrier, leaves nobody waiting.
pub fn poison_lets_all_go() {
    for (n, patience) in [(2, Patience::of(1, 1)), (3, Patience::of(0, 0))] {
        walk(move || {
            let barrier = Arc::new(Barrier::new(n, patience));
            let others: Vec<_> = (1..n)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    thread::spawn(move || {
                        // The first round may be complete before the poison.
                        if barrier.meet().is_ok() {
                            assert_eq!(barrier.meet(), Err(Poisoned));
                        }
                        assert_eq!(barrier.meet(), Err(Poisoned));
                    })
                })
                .collect();
            let _ = barrier.meet();
            barrier.poison();
            for other in others {
                other.join().unwrap_or_else(|_| panic!("a worker failed"));
            }
        });
    }
}

/// Each job runs once on every thread, while the lender waits and not after; then all leave.
pub fn jobs_are_lent() {
    for (n_helpers, jobs, patience) in [
        (1, 2, Patience::of(1, 1)),
        (1, 2, Patience::of(0, 0)),
        (2, 1, Patience::of(0, 0)),
    ] {
        walk(move || {
            let (mut lender, helpers) = Lender::new(n_helpers, patience);
            let threads: Vec<_> = helpers
                .into_iter()
                .map(|helper| thread::spawn(move || helper.serve()))
                .collect();
            for _ in 0..jobs {
                // On this stack: gone when the job is, so that a late reader would show.
                let ran = AtomicUsize::new(0);
                let done = lender.run(&|index| {
                    ran.fetch_add(1 << (8 * index), Ordering::Relaxed);
                });
                assert_eq!(done, Ok(()));
                let want = (0..=n_helpers).map(|i| 1 << (8 * i)).sum::<usize>();
                assert_eq!(ran.load(Ordering::Relaxed), want);
            }
            drop(lender);
            for thread in threads {
                thread.join().unwrap_or_else(|_| panic!("a helper failed"));
            }
        });
    }
}
