//! Room on the destination's file system, and the error that tells of its end.

use std::{error::Error, io, path::Path};

use crate::error::ConvertError;

/// Fails where the file system of `path` has less room than `needed` bytes, as far as the system
/// tells.
pub(crate) fn check(path: &Path, needed: u64) -> Result<(), ConvertError> {
    match available(path) {
        Some(available) if available < needed => Err(ConvertError::DiskFull {
            path: path.to_owned(),
            needed,
            available: Some(available),
        }),
        _ => Ok(()),
    }
}

/// `error`, or [`ConvertError::DiskFull`] where a full disk or quota is its cause.
pub(crate) fn name_full_disk(error: ConvertError, path: &Path, needed: u64) -> ConvertError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        let full = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        if this.downcast_ref().is_some_and(full) {
            let available = available(path);
            return ConvertError::DiskFull {
                path: path.to_owned(),
                needed,
                available,
            };
        }
        cause = this.source();
    }
    error
}

/// Free bytes of the file system that holds `path`'s directory.
#[cfg(unix)]
fn available(path: &Path) -> Option<u64> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let stat = rustix::fs::statvfs(folder).ok()?;
    // Some virtual file systems have no notion of their size.
    if stat.f_blocks == 0 {
        return None;
    }
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn available(_path: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use chaski_quant::container::ContainerError;

    use super::*;

    #[test]
    fn a_full_disk_is_named_with_the_bytes_that_it_takes() {
        let path = Path::new("model.chaski");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let nested = io::Error::new(
            io::ErrorKind::StorageFull,
            ContainerError::WriteFile {
                path: path.to_owned(),
                source: full(),
            },
        );
        for cause in [full(), nested] {
            let error = ConvertError::Container(ContainerError::Write(cause));
            let text = name_full_disk(error, path, 12345).to_string();
            assert!(
                text.starts_with("no room for model.chaski: it takes 12345 bytes"),
                "{text}"
            );
        }
        let other =
            ConvertError::Container(ContainerError::Write(io::ErrorKind::BrokenPipe.into()));
        assert!(matches!(
            name_full_disk(other, path, 1),
            ConvertError::Container(_)
        ));
    }

    #[test]
    #[cfg(unix)]
    fn more_than_the_disk_has_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.chaski");
        check(&path, 1).unwrap();
        let err = check(&path, 1 << 62).unwrap_err();
        assert!(
            matches!(
                err,
                ConvertError::DiskFull {
                    available: Some(_),
                    ..
                }
            ),
            "{err}"
        );
    }
}
