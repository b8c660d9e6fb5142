//! Runs the scenes, each as a test.

#[test]
fn a_thread_that_waits_for_a_number_sees_it() {
    chaski_loom::signal_wakes();
}

#[test]
fn what_was_written_before_a_barrier_is_seen_after_it() {
    chaski_loom::workers_meet();
}

#[test]
fn a_poisoned_barrier_lets_all_go() {
    chaski_loom::poison_lets_all_go();
}

#[test]
fn a_job_is_used_only_while_it_is_lent() {
    chaski_loom::jobs_are_lent();
}
