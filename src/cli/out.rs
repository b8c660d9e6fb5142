//! Standard output is the answer, standard error is everything else.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicU8, Ordering},
};

const QUIET: u8 = 0;
const NORMAL: u8 = 1;
const VERBOSE: u8 = 2;

static LEVEL: AtomicU8 = AtomicU8::new(NORMAL);

/// Sets how much [`note`] and [`detail`] print.
pub(crate) fn set_level(quiet: bool, verbose: bool) {
    let level = if quiet {
        QUIET
    } else if verbose {
        VERBOSE
    } else {
        NORMAL
    };
    LEVEL.store(level, Ordering::Relaxed);
}

/// Whether a progress bar may be drawn.
pub(crate) fn wants_progress() -> bool {
    LEVEL.load(Ordering::Relaxed) != QUIET && io::stderr().is_terminal()
}

/// Whether `--quiet` was given.
pub(crate) fn is_quiet() -> bool {
    LEVEL.load(Ordering::Relaxed) == QUIET
}

/// A line on standard error, unless `--quiet`.
pub(crate) fn note(line: impl Display) {
    if LEVEL.load(Ordering::Relaxed) >= NORMAL {
        error_line(line);
    }
}

/// A line on standard error, only with `--verbose`.
pub(crate) fn detail(line: impl Display) {
    if LEVEL.load(Ordering::Relaxed) >= VERBOSE {
        error_line(line);
    }
}

/// A line on standard error, always.
pub(crate) fn error_line(line: impl Display) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(
        io::stderr().lock(),
        "{}",
        escaped(&line.to_string(), "\n\t")
    );
}

/// `text` with its control characters, but those in `but`, as `\u{1b}`: what a file says must not
/// steer a terminal.
pub(crate) fn escaped(text: &str, but: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() || turns) && !but.contains(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A model's words as they are shown: on a terminal its control characters, which could steer it, are
/// told as `\u{1b}`; anywhere else the bytes are what the model said.
fn answer(text: &str, on_terminal: bool) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !on_terminal || !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A piece of an answer on standard output, at once.
pub(crate) fn print_answer(text: &str) -> io::Result<()> {
    print(&answer(text, io::stdout().is_terminal()))
}

/// An error of standard output says so, and keeps its kind.
fn named(e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("standard output cannot be written: {e}"))
}

/// Text on standard output, at once.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(named)
}

/// A line on standard output.
pub(crate) fn print_line(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", escaped(&line.to_string(), "\n\t"))
        .and_then(|()| out.flush())
        .map_err(named)
}

/// A JSON document on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut text = json(value).map_err(named)?;
    text.push('\n');
    print(&text)
}

/// `value` as JSON. RFC 8259 has the characters below U+0020 escaped; here the other control
/// characters are, too, which terminals follow as well. They can only be inside of strings.
fn json(value: &impl serde::Serialize) -> io::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let steers = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !text.contains(steers) {
        return Ok(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            shown += &format!("\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Ok(shown)
}

/// `1.23 GiB` and the like; bytes below 1 KiB as they are.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

/// Left-aligned first column, right-aligned others, two spaces between.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    table_of(rows, 1)
}

/// The first `n_left` columns, which are words, left-aligned; the others, which are numbers, to the
/// right; two spaces between.
pub(crate) fn table_of(rows: &[Vec<String>], n_left: usize) -> String {
    let shown = |row: &Vec<String>| row.iter().map(|cell| escaped(cell, "")).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(c, cell)| {
                let w = widths[c];
                if c < n_left {
                    format!("{cell:<w$}")
                } else {
                    format!("{cell:>w$}")
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_binary_units() {
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1 << 30, "1.00 GiB"),
            (1 << 50, "1024.00 TiB"),
        ] {
            assert_eq!(bytes(n), want);
        }
    }

    #[test]
    fn tables_align_their_columns() {
        let rows = vec![
            vec!["a".into(), "10".into()],
            vec!["bcd".into(), "7".into()],
        ];
        assert_eq!(table(&rows), "a    10\nbcd   7\n");
        assert_eq!(table_of(&rows, 2), "a    10\nbcd  7\n");
    }

    #[test]
    fn an_answer_steers_no_terminal_and_goes_to_a_file_as_it_is() {
        let said = "a\x1b]0;x\x07\u{9b}2J\x7f\r\0\n\té\u{2067}";
        assert_eq!(
            answer(said, true),
            "a\\u{1b}]0;x\\u{7}\\u{9b}2J\\u{7f}\\u{d}\\u{0}\n\té\u{2067}"
        );
        assert_eq!(answer(said, false), said);
    }

    #[test]
    fn json_has_no_control_characters_but_its_own_lines() {
        let said: String = ('\0'..='\u{a0}').chain("\"\\é".chars()).collect();
        let text = json(&[&said]).unwrap();
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap(), [said]);
    }

    #[test]
    fn nothing_steers_a_terminal() {
        let text = "a\x1b[2J\u{9b}1m\r\u{202e}é\n";
        let want = "a\\u{1b}[2J\\u{9b}1m\\u{d}\\u{202e}é";
        assert_eq!(escaped(text, "\n"), format!("{want}\n"));
        assert_eq!(table(&[vec![text.to_owned()]]), format!("{want}\\u{{a}}\n"));
    }
}
