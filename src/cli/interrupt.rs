//! Ctrl-C, SIGTERM and SIGHUP: the first one asks the work at hand to stop, a second one ends the
//! program.

use std::io::IsTerminal;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::SeqCst},
};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// No work is at hand: a signal ends the program.
static IDLE: AtomicBool = AtomicBool::new(false);

/// The exit status of a program that Ctrl-C ended.
pub(crate) const EXIT_STATUS: u8 = 130;

/// Set by Ctrl-C; installs the handler on first use.
pub(crate) fn flag() -> Arc<AtomicBool> {
    let flag = ASKED.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let handler = move || {
            if seen.swap(true, SeqCst) || IDLE.load(SeqCst) {
                leave();
            }
        };
        // A handler would undo `nohup`.
        if ignores_hangup() {
            return flag;
        }
        // Without a handler Ctrl-C ends the program at once, which is what the system does anyway.
        if let Err(e) = ctrlc::set_handler(handler) {
            super::out::detail(format_args!("Ctrl-C cannot be handled: {e}"));
        }
        flag
    });
    Arc::clone(flag)
}

/// Whether SIGHUP was ignored from the start, as `nohup` does; only Linux tells.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[expect(
    clippy::exit,
    reason = "the second Ctrl-C: whatever hangs shall not keep the user"
)]
fn leave() {
    // The shell's prompt begins a line of its own, not the answer's. Whoever hangs may have the lock
    // of standard error, so nothing waits for long.
    if std::io::stderr().is_terminal() {
        let line = std::thread::spawn(|| super::out::error_line(""));
        for _ in 0..20 {
            if line.is_finished() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    std::process::exit(EXIT_STATUS.into());
}

/// Whether Ctrl-C was pressed since the last [`reset`]; installs no handler.
pub(crate) fn asked() -> bool {
    ASKED.get().is_some_and(|flag| flag.load(SeqCst))
}

/// Follows a Ctrl-C that was pressed: an error if there was one.
pub(crate) fn follow() -> Result<(), Interrupted> {
    if asked() { Err(Interrupted) } else { Ok(()) }
}

/// Says whether the program waits for its user: nothing would look at the flag.
pub(crate) fn set_idle(idle: bool) {
    IDLE.store(idle, SeqCst);
}

/// Forgets a Ctrl-C that was followed.
pub(crate) fn reset() {
    flag().store(false, SeqCst);
}

/// What a command returns that Ctrl-C ended.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ended by Ctrl-C")
    }
}

impl std::error::Error for Interrupted {}

/// Whether an error is a consequence of Ctrl-C.
pub(crate) fn was_followed(e: &anyhow::Error) -> bool {
    let cancelled = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref(),
            Some(chaski::SessionError::Cancelled { .. })
        )
    };
    e.is::<Interrupted>()
        || e.chain().any(cancelled)
        || (asked()
            && e.downcast_ref::<chaski_convert::ConvertError>()
                .is_some_and(|e| matches!(e, chaski_convert::ConvertError::Cancelled)))
}
