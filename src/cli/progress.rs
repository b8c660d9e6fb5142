//! Progress bars, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

use super::out;

/// A bar over `total` bytes with rate and time left; hidden where nobody would see it.
pub(crate) fn bytes_bar(total: u64, what: &str) -> ProgressBar {
    if !out::wants_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A line with a spinner for work of unknown length.
pub(crate) fn spinner(what: String) -> ProgressBar {
    if !out::wants_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_message(what);
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

/// A bar over `total` steps.
pub(crate) fn steps_bar(total: u64, what: &str) -> ProgressBar {
    if !out::wants_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}
