//! The only unsafe code of this crate: a file as bytes in memory.
#![allow(unsafe_code)]

use std::{fs, io, ops::Range, path::Path};

use memmap2::Mmap;

use super::error::ContainerError;

/// A file that is mapped for reading.
#[derive(Debug)]
pub(super) struct Mapped(Mmap);

impl Mapped {
    /// Maps all of a regular file.
    pub(super) fn open(path: &Path) -> Result<Self, ContainerError> {
        let failed = |source| ContainerError::Open {
            path: path.to_owned(),
            source,
        };
        // Asked before opening: to open a pipe would wait for its other end.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(ContainerError::NotAFile {
                path: path.to_owned(),
            });
        }
        let file = fs::File::open(path).map_err(failed)?;
        // SAFETY: the map is private to this type, read-only, and unmapped when it is dropped, so
        // no reference outlives it. What cannot be ruled out here is that somebody changes the
        // file under the map. Every value of every byte is valid for `u8`; nothing that is not
        // plain bytes (a `str`, a length, an offset) is kept in the map: it is read once and
        // copied. Chaski itself changes a finished file in one way only, the renewal of its
        // metadata, whose bytes nobody reads after opening. Beyond that it is the stated contract
        // of `Container::open` that the file stays as it is while it is open.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self(map))
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Asks the system to read these bytes soon.
    #[cfg(unix)]
    pub(super) fn will_need(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.0
            .advise_range(memmap2::Advice::WillNeed, range.start, range.len())
    }

    /// There is no portable way to ask.
    #[cfg(not(unix))]
    pub(super) fn will_need(&self, _: Range<usize>) -> io::Result<()> {
        Ok(())
    }
}
