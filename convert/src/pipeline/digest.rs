//! SHA-256 of the source's files, taken beside the conversion.
//!
//! The tensors are not read in the order of the source's files, so the digests take reads of their
//! own: one thread walks the files from end to end while the others quantise. That costs a second
//! or two of the processor for each gigabyte at most, and gives the very digests that model hubs
//! publish.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use sha2::{Digest, Sha256};

use crate::source::{ReadAt, SourceError, SourceFile};

const STEP: u64 = 1 << 20;

/// The digests of `files` in lower-case hexadecimal digits; `None` where `stop` was set.
pub(crate) fn sha256(
    files: &[SourceFile],
    stop: &AtomicBool,
) -> Result<Option<Vec<String>>, SourceError> {
    let mut bytes = Vec::new();
    let mut digests = Vec::with_capacity(files.len());
    for SourceFile { path, len } in files {
        let file = ReadAt::open(path)?;
        if file.len() != *len {
            return Err(changed(path.clone()));
        }
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < *len {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            bytes.clear();
            let n = STEP.min(len - at);
            file.append(at, n as usize, &mut bytes)?;
            hash.update(&bytes);
            at += n;
        }
        digests.push(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
    }
    Ok(Some(digests))
}

fn changed(path: PathBuf) -> SourceError {
    let cause = std::io::Error::other("its length changed during the conversion");
    SourceError::Read { path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            SourceFile {
                path,
                len: bytes.len() as u64,
            }
        };
        // FIPS 180-4: "abc", and a million times "a".
        let files = [file("abc", b"abc"), file("a", &vec![b'a'; 1_000_000])];

        let got = sha256(&files, &AtomicBool::new(false)).unwrap().unwrap();
        assert_eq!(
            got,
            [
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
            ]
        );
        assert_eq!(sha256(&files, &AtomicBool::new(true)).unwrap(), None);
        std::fs::write(&files[0].path, b"abcd").unwrap();
        let err = sha256(&files, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(err, SourceError::Read { .. }), "{err}");
    }
}
