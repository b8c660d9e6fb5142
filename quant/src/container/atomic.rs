//! A file that appears under its name only when it is whole.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tempfile::{Builder, NamedTempFile};

use super::{
    error::ContainerError,
    reader::Container,
    renew::{Failure, rewrite},
};

/// What is between the target's name and this, in a temporary name, is random.
const SUFFIX: &str = ".part";
const RANDOM_BYTES: usize = 6;

/// Whether a file's name is one that an [`AtomicFile`] writes under: the file may be whole by
/// chance, but nobody said so.
pub(super) fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.starts_with('.') && name.ends_with(SUFFIX))
}

/// A file that is written under a temporary name beside its target and takes the target's name
/// when it is committed: nobody ever sees half of it, and whoever has the old file open keeps it.
///
/// Dropped without a commit it leaves nothing. A killed program leaves the temporary file,
/// `.NAME.??????.part`; the next writer of the same target removes it, known by a lock that ended
/// with its owner.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    target: PathBuf,
    force: bool,
}

impl AtomicFile {
    /// Starts a file that is to become `target`.
    ///
    /// * `force`: whether a file of that name may be replaced.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Exists`] if the target is there and may not be replaced, which is asked
    /// again at the commit; [`ContainerError::WriteFile`] if its folder cannot be written.
    pub fn create(target: impl Into<PathBuf>, force: bool) -> Result<Self, ContainerError> {
        let target = target.into();
        match fs::symlink_metadata(&target) {
            // Nor a device, which root could replace.
            Ok(found) if !found.is_file() && !found.is_symlink() => {
                return Err(ContainerError::NotAFile { path: target });
            }
            Ok(_) if !force => return Err(ContainerError::Exists { path: target }),
            _ => {}
        }
        let Some(name) = target.file_name() else {
            return Err(ContainerError::NotAFile { path: target });
        };
        let prefix: OsString = [OsStr::new("."), name, OsStr::new(".")]
            .into_iter()
            .collect();
        let folder = folder_of(&target);
        remove_leftovers(folder, &prefix);
        match create_locked(folder, &prefix) {
            Ok(file) => Ok(Self {
                file,
                target,
                force,
            }),
            Err(source) => Err(ContainerError::WriteFile {
                path: target,
                source,
            }),
        }
    }

    /// The name that the file is going to have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Opens what was written, a whole container.
    ///
    /// # Errors
    ///
    /// As [`Container::open`].
    pub fn open(&self) -> Result<Container, ContainerError> {
        Container::open_unnamed(self.file.path())
    }

    /// Replaces the metadata of what was written, a whole container, as
    /// [`rewrite_metadata`](super::rewrite_metadata) does with a file that has its name.
    ///
    /// # Errors
    ///
    /// As [`rewrite_metadata`](super::rewrite_metadata).
    pub fn rewrite_metadata(&self, metadata: &str) -> Result<(), ContainerError> {
        rewrite(self.file.as_file(), self.open()?, metadata).map_err(|failure| match failure {
            Failure::Refused(e) => e,
            Failure::Io(source) => ContainerError::WriteFile {
                path: self.target.clone(),
                source,
            },
        })
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    ///
    /// [`ContainerError::Exists`] if the target came into being meanwhile and may not be
    /// replaced; [`ContainerError::WriteFile`] for anything that the system refuses. Nothing is
    /// left in either case.
    pub fn commit(self) -> Result<(), ContainerError> {
        let Self {
            file,
            target,
            force,
        } = self;
        let renamed = file.as_file().sync_all().and_then(|()| match force {
            true => file.persist(&target).map_err(|e| e.error),
            false => file.persist_noclobber(&target).map_err(|e| e.error),
        });
        match renamed.and_then(|_| sync_folder(folder_of(&target))) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(ContainerError::Exists { path: target })
            }
            Err(source) => Err(ContainerError::WriteFile {
                path: target,
                source,
            }),
        }
    }

    /// `result`, with an error that names the file.
    fn named<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|source| {
            let (kind, path) = (source.kind(), self.target.clone());
            io::Error::new(kind, ContainerError::WriteFile { path, source })
        })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.file.as_file().write(bytes);
        self.named(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.as_file().flush();
        self.named(result)
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let result = self.file.as_file().seek(to);
        self.named(result)
    }
}

/// The folder that holds `path`.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// A new temporary file, locked as long as it is open.
fn create_locked(folder: &Path, prefix: &OsStr) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder
        .prefix(prefix)
        .suffix(SUFFIX)
        .rand_bytes(RANDOM_BYTES);
    #[cfg(unix)]
    {
        // As any new file: readable by whom the umask lets read.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        // Some file systems have no locks; then leftovers stay, and nothing else changes.
        let locked = file.as_file().lock().is_ok();
        // Between its creation and its lock another writer may have taken it for a leftover.
        if !locked || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes the temporary files of writers of the same target that were killed.
fn remove_leftovers(folder: &Path, prefix: &OsStr) {
    let is_temporary = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.strip_prefix(prefix.as_encoded_bytes())
            .and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()))
            .is_some_and(|random| random.len() == RANDOM_BYTES)
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let regular = entry.file_type().is_ok_and(|t| t.is_file());
        if !regular || !is_temporary(&entry.file_name()) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // What cannot be removed does no harm: it is no model and has no model's name.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes a rename in `folder` durable.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Folders cannot be opened as files here.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_commit_names_the_file_and_a_drop_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.chaski");
        let mut file = AtomicFile::create(&target, false).unwrap();
        file.write_all(b"one").unwrap();
        let part = names(dir.path());
        assert!(part.len() == 1 && part[0].starts_with(".m.chaski.") && part[0].ends_with(".part"));
        drop(file);
        assert_eq!(names(dir.path()), [""; 0]);

        let mut file = AtomicFile::create(&target, false).unwrap();
        file.write_all(b"two").unwrap();
        file.commit().unwrap();
        assert_eq!(names(dir.path()), ["m.chaski"]);
        assert_eq!(fs::read(&target).unwrap(), b"two");
    }

    #[test]
    fn a_file_is_replaced_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.chaski");
        let late = AtomicFile::create(&target, false).unwrap();
        fs::write(&target, b"old").unwrap();
        let refused = AtomicFile::create(&target, false).unwrap_err();
        assert!(matches!(&refused, ContainerError::Exists { path } if *path == target));
        assert!(matches!(
            late.commit().unwrap_err(),
            ContainerError::Exists { .. }
        ));
        assert_eq!(
            (names(dir.path()).len(), fs::read(&target).unwrap()),
            (1, b"old".to_vec())
        );

        let mut open = File::open(&target).unwrap();
        let mut file = AtomicFile::create(&target, true).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        let mut still = String::new();
        io::Read::read_to_string(&mut open, &mut still).unwrap();
        assert_eq!(still, "old", "who has the old file open keeps it");

        let error = AtomicFile::create(dir.path(), true).unwrap_err();
        assert!(matches!(error, ContainerError::NotAFile { .. }), "{error}");
        #[cfg(unix)]
        {
            let socket = dir.path().join("socket");
            let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let error = AtomicFile::create(&socket, true).unwrap_err();
            assert!(error.to_string().contains("regular file"), "{error}");
            assert!(!fs::symlink_metadata(&socket).unwrap().is_file());
        }
        let error = AtomicFile::create(dir.path().join("no/m.chaski"), true).unwrap_err();
        assert!(error.to_string().contains("no/m.chaski"), "{error}");
    }

    #[test]
    fn leftovers_of_the_dead_are_removed_and_the_living_are_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name| dir.path().join(name);
        for name in [
            ".m.chaski.abcdef.part",
            ".m.chaski.x.part",
            ".n.chaski.abcdef.part",
            "m.part",
        ] {
            fs::write(at(name), b"x").unwrap();
        }
        let first = AtomicFile::create(at("m.chaski"), false).unwrap();
        let second = AtomicFile::create(at("m.chaski"), false).unwrap();
        let left = names(dir.path());
        assert_eq!(left.len(), 5, "{left:?}");
        assert!(!left.contains(&".m.chaski.abcdef.part".to_owned()));
        first.commit().unwrap();
        drop(second);
        assert_eq!(
            names(dir.path()),
            [
                ".m.chaski.x.part",
                ".n.chaski.abcdef.part",
                "m.chaski",
                "m.part"
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_umask_decides_who_may_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, b"").unwrap();
        let target = dir.path().join("m.chaski");
        AtomicFile::create(&target, false)
            .unwrap()
            .commit()
            .unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&plain));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.chaski");
        // A temporary file whose handle writes to the device that is always full.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = NamedTempFile::from_parts(
            full,
            tempfile::NamedTempFile::new().unwrap().into_temp_path(),
        );
        let mut file = AtomicFile {
            file,
            target: target.clone(),
            force: false,
        };
        let error = file.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let want = format!("could not write `{}`: the disk is full", target.display());
        assert_eq!(error.to_string(), want);
    }
}
