//! Reading a GGUF header front to back through a buffer of bounded size.

use std::fmt;

use super::error::GgufError;
use crate::source::{ReadAt, SourceError};

/// How much is read ahead: tokens are a few bytes each, a system call for each would take seconds.
const BUFFER: usize = 64 << 10;

/// A position in a file. Every length that the file states is checked against what is left of the file before
/// anything is allocated for it.
pub(super) struct Cursor<'a> {
    file: &'a ReadAt,
    /// Bytes of the file from `offset` on.
    buffer: Vec<u8>,
    offset: u64,
    /// How much of the buffer is used up.
    used: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a ReadAt) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            offset: 0,
            used: 0,
        }
    }

    /// Bytes before the position.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.used as u64
    }

    /// Bytes from the position to the end of the file.
    pub(super) fn remaining(&self) -> u64 {
        self.file.len() - self.position()
    }

    /// An error unless `needed` more bytes are there; `what` says which.
    pub(super) fn expect(&self, needed: u64, what: &dyn fmt::Display) -> Result<(), SourceError> {
        if needed <= self.remaining() {
            return Ok(());
        }
        let (at, len) = (self.position(), self.file.len());
        Err(self.error(GgufError::Truncated {
            what: what.to_string(),
            at,
            needed,
            len,
        }))
    }

    /// `cause`, with the file's path.
    pub(super) fn error(&self, cause: GgufError) -> SourceError {
        SourceError::Gguf {
            path: self.file.path().to_owned(),
            cause,
        }
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &dyn fmt::Display,
    ) -> Result<[u8; N], SourceError> {
        const { assert!(N <= BUFFER) };
        self.expect(N as u64, what)?;
        self.fill(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.buffer[self.used..self.used + N]);
        self.used += N;
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &dyn fmt::Display) -> Result<u32, SourceError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &dyn fmt::Display) -> Result<u64, SourceError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Appends the next `len` bytes to `out`.
    pub(super) fn append(
        &mut self,
        len: u64,
        out: &mut Vec<u8>,
        what: &dyn fmt::Display,
    ) -> Result<(), SourceError> {
        self.expect(len, what)?;
        // Fits: it is no more than what `remaining` found, and a file of more bytes than `usize` has is read on
        // 64-bit machines only.
        let mut len = len as usize;
        if out.capacity() - out.len() < len {
            // Doubling, as `Vec` does, but never beyond what the rest of the file can fill.
            let room = usize::try_from(self.remaining()).unwrap_or(usize::MAX);
            out.reserve_exact(len.max(out.len().min(room)));
        }
        while len > 0 {
            self.fill(1)?;
            let part = &self.buffer[self.used..];
            let part = &part[..part.len().min(len)];
            out.extend_from_slice(part);
            self.used += part.len();
            len -= part.len();
        }
        Ok(())
    }

    /// The next bytes as a text of at most `max` bytes, with its length before it.
    pub(super) fn text(
        &mut self,
        max: u64,
        what: &dyn fmt::Display,
    ) -> Result<String, SourceError> {
        let len = self.u64(what)?;
        self.expect(len, what)?;
        if len > max {
            return Err(self.error(GgufError::TooLong {
                what: what.to_string(),
                len,
                max,
            }));
        }
        let mut bytes = Vec::new();
        self.append(len, &mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| {
            self.error(GgufError::NotUtf8 {
                what: what.to_string(),
            })
        })
    }

    /// Sees to it that at least `n` bytes are in the buffer; they are in the file.
    fn fill(&mut self, n: usize) -> Result<(), SourceError> {
        if self.buffer.len() - self.used >= n {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.offset += self.used as u64;
        self.used = 0;
        let start = self.offset + self.buffer.len() as u64;
        let more = (self.file.len() - start).min((BUFFER - self.buffer.len()) as u64);
        self.file.append(start, more as usize, &mut self.buffer)
    }
}
