//! Reads at a position, which leave no shared cursor behind: any number of threads may read one
//! file.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::SourceError;

/// Opens a regular file and nothing else: to open a pipe would wait for its other end, to read a
/// device would not end.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    // Asked before opening.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    File::open(path)
}

/// An open file, or bytes that stand for one, with path and length.
#[derive(Debug)]
pub struct ReadAt {
    bytes: Bytes,
    path: PathBuf,
    len: u64,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

impl ReadAt {
    /// `bytes` as if they lay at `path`, where nothing needs to be.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            len: bytes.len() as u64,
            bytes: Bytes::Memory(bytes),
        }
    }

    /// Opens the regular file at `path`.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let open = || -> io::Result<(File, u64)> {
            let file = open_regular(path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        let (file, len) = open().map_err(|cause| SourceError::Open {
            path: path.to_owned(),
            cause,
        })?;
        Ok(Self {
            bytes: Bytes::File(file),
            path: path.to_owned(),
            len,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the `len` bytes from `offset` on to `out`. A range beyond the file is an error
    /// before anything is allocated.
    pub fn append(&self, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<(), SourceError> {
        let error = |cause| SourceError::Read {
            path: self.path.clone(),
            cause,
        };
        if offset
            .checked_add(len as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(error(io::ErrorKind::UnexpectedEof.into()));
        }
        match &self.bytes {
            Bytes::Memory(bytes) => {
                out.extend_from_slice(&bytes[offset as usize..][..len]);
                Ok(())
            }
            Bytes::File(file) => {
                let start = out.len();
                out.resize(start + len, 0);
                read_exact_at(file, &mut out[start..], offset).map_err(error)
            }
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                out = &mut out[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_beyond_the_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abcdef").unwrap();
        let memory = ReadAt::from_bytes(&path, b"abcdef".to_vec());
        for file in [ReadAt::open(&path).unwrap(), memory] {
            assert_eq!((file.len(), file.is_empty()), (6, false));
            let mut out = b"x".to_vec();
            file.append(2, 3, &mut out).unwrap();
            file.append(6, 0, &mut out).unwrap();
            assert_eq!(out, b"xcde");
            for (offset, len) in [(6, 1), (0, 7), (u64::MAX, 1), (1, usize::MAX)] {
                assert!(
                    file.append(offset, len, &mut out).is_err(),
                    "{offset}+{len}"
                );
            }
            assert_eq!(out, b"xcde", "a failed read leaves nothing behind");
        }
        assert!(ReadAt::open(dir.path()).is_err(), "a directory is no file");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abcdef").unwrap();
        let file = ReadAt::open(&path).unwrap();
        std::fs::write(&path, b"abc").unwrap();
        let err = file.append(0, 6, &mut Vec::new()).unwrap_err();
        assert!(matches!(err, SourceError::Read { .. }), "{err}");
    }
}
