//! Progress bars, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

use super::out;

/// Sets what a bar says. It may be the name of a file, which is not to steer the terminal.
pub(crate) fn say(bar: &ProgressBar, what: &str) {
    bar.set_message(out::escaped(what, ""));
}

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
    say(&bar, what);
    bar
}

/// A line with a spinner for work of unknown length.
pub(crate) fn spinner(what: String) -> ProgressBar {
    if !out::wants_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    say(&bar, &what);
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
    say(&bar, what);
    bar
}

/// A bar over work that only its share is told of.
pub(crate) fn share_bar(total: u64, what: &str) -> ProgressBar {
    if !out::wants_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {percent} % {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    say(&bar, what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_bar_steers_no_terminal() {
        let bar = ProgressBar::hidden();
        say(&bar, "a\x1b[2J\n.chaski");
        assert_eq!(bar.message(), "a\\u{1b}[2J\\u{a}.chaski");
    }
}
