//! Texts that a user hands over, read up to a limit: a device or a wrong file would not end.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, bail};

use super::out;

/// A prompt is text that somebody wrote; more than this is another kind of file.
pub(crate) const MAX_PROMPT_BYTES: u64 = 64 << 20;
/// A text to measure on is held in memory, and so are its tokens.
pub(crate) const MAX_CORPUS_BYTES: u64 = 256 << 20;

/// All of `from`, which must be UTF-8 and have at most `max` bytes.
pub(crate) fn read(from: impl Read, max: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        bail!("it is longer than {}", out::bytes(max));
    }
    String::from_utf8(bytes).context("it is not UTF-8")
}

/// The text of a file, or of a pipe.
pub(crate) fn read_file(path: &Path, max: u64) -> anyhow::Result<String> {
    read(File::open(path)?, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_beyond_its_limit_or_not_utf8_is_refused() {
        assert_eq!(read(&b"abc"[..], 3).unwrap(), "abc");
        let err = read(std::io::repeat(0), 3).unwrap_err();
        assert_eq!(err.to_string(), "it is longer than 3 B");
        let err = read(&[0xff][..], 3).unwrap_err();
        assert_eq!(err.to_string(), "it is not UTF-8");
    }
}
