//! Where converted models are kept.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::text;

/// The cache folder: `CHASKI_CACHE`, else `chaski` in `XDG_CACHE_HOME`, `LOCALAPPDATA` or `~/.cache`.
pub(crate) fn dir() -> anyhow::Result<PathBuf> {
    dir_from(|name| env::var_os(name).map(PathBuf::from))
}

fn dir_from(var: impl Fn(&str) -> Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let set = |name: &str| var(name).filter(|p| !p.as_os_str().is_empty());
    if let Some(dir) = set("CHASKI_CACHE") {
        return Ok(dir);
    }
    // The XDG specification: a relative path is to be ignored.
    if let Some(dir) = set("XDG_CACHE_HOME").filter(|p| p.is_absolute()) {
        return Ok(dir.join("chaski"));
    }
    if let Some(dir) = set("LOCALAPPDATA") {
        return Ok(dir.join("chaski"));
    }
    match set("HOME").or_else(|| set("USERPROFILE")) {
        Some(home) => Ok(home.join(".cache").join("chaski")),
        None => bail!("no folder for the cache: set CHASKI_CACHE (HOME is not set either)"),
    }
}

/// A short name for the content of a source: its files' paths, lengths and times.
///
/// A changed checkpoint gets another name and so is converted again.
pub(crate) fn source_key(source: &Path) -> anyhow::Result<String> {
    let named = || format!("{} cannot be read", source.display());
    let path = source.canonicalize().with_context(named)?;
    let mut files = vec![path.clone()];
    if path.is_dir() {
        files = fs::read_dir(&path)
            .with_context(named)?
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .with_context(named)?;
        files.retain(|f| f.is_file());
        files.sort();
    }
    let mut hash = Sha256::new();
    for file in files {
        let meta = fs::metadata(&file).with_context(named)?;
        let modified = meta
            .modified()
            .ok()
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let nanos = modified.map_or(0, |t| t.as_nanos());
        hash.update(format!("{}\0{}\0{nanos}\0", file.display(), meta.len()));
    }
    Ok(hash
        .finalize()
        .iter()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect())
}

/// What tells a file from the one that was here when its checksums were looked at: length, time of
/// the last change, and where systems tell it the number of the file itself, which another one with
/// the same name does not have.
fn stamp(file: &Path) -> io::Result<String> {
    let meta = fs::metadata(file)?;
    let changed = meta.modified()?.duration_since(UNIX_EPOCH);
    let nanos = changed.map_or(0, |t| t.as_nanos());
    #[cfg(unix)]
    let own = {
        use std::os::unix::fs::MetadataExt;
        format!("{}:{}", meta.dev(), meta.ino())
    };
    #[cfg(not(unix))]
    let own = "-";
    Ok(format!("verified {} {nanos} {own}\n", meta.len()))
}

/// Where the stamp of a file of the cache is kept.
fn stamp_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".verified");
    name.into()
}

/// Whether a file of the cache is the one that [`set_verified`] was told of.
pub(crate) fn is_verified(file: &Path) -> bool {
    // A stamp has some 60 bytes; anything else of this name is none.
    let kept = text::read_file(&stamp_path(file), 1 << 10);
    kept.is_ok_and(|kept| stamp(file).is_ok_and(|now| now == kept))
}

/// Records that every byte of a file of the cache was looked at, or just written.
pub(crate) fn set_verified(file: &Path) -> io::Result<()> {
    let mut kept = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    kept.write_all(stamp(file)?.as_bytes())?;
    kept.persist(stamp_path(file)).map_err(|e| e.error)?;
    Ok(())
}

/// The name of a folder or file without the extensions of models.
pub(crate) fn stem(source: &Path) -> String {
    let path = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let name = path
        .file_name()
        .map_or_else(|| "model".into(), |n| n.to_string_lossy());
    let name = name
        .strip_suffix(".gguf")
        .or_else(|| name.strip_suffix(".chaski"))
        .unwrap_or(&name);
    // The name becomes part of a file name that we choose.
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if name.is_empty() {
        "model".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_follows_the_variables_in_order() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, PathBuf)> = set
                .iter()
                .map(|(k, v)| ((*k).to_owned(), PathBuf::from(v)))
                .collect();
            dir_from(move |name| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
        };
        let all = [
            ("CHASKI_CACHE", "/c"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(with(&all).unwrap(), Path::new("/c"));
        assert_eq!(with(&all[1..]).unwrap(), Path::new("/x/chaski"));
        assert_eq!(with(&all[2..]).unwrap(), Path::new("/h/.cache/chaski"));
        let relative = [("XDG_CACHE_HOME", "x"), ("HOME", "/h")];
        assert_eq!(with(&relative).unwrap(), Path::new("/h/.cache/chaski"));
        assert!(with(&[]).unwrap_err().to_string().contains("CHASKI_CACHE"));
    }

    #[test]
    fn a_changed_source_has_another_key() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        let first = source_key(dir.path()).unwrap();
        assert_eq!(source_key(dir.path()).unwrap(), first);
        fs::write(dir.path().join("config.json"), "{ }").unwrap();
        assert_ne!(source_key(dir.path()).unwrap(), first);
        assert!(source_key(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_file_that_changed_is_not_the_one_that_was_verified() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.chaski");
        let other = dir.path().join("other");
        let time = fs::FileTimes::new().set_modified(UNIX_EPOCH);
        let write = |path: &Path, text: &str| {
            fs::write(path, text).unwrap();
            let open = fs::File::options().append(true).open(path).unwrap();
            open.set_times(time).unwrap();
        };
        write(&file, "abc");
        assert!(!is_verified(&file));
        set_verified(&file).unwrap();
        assert!(is_verified(&file));
        fs::write(&file, "abd").unwrap();
        assert!(!is_verified(&file), "another time");
        write(&file, "abcd");
        assert!(!is_verified(&file), "another length");
        write(&file, "abd");
        assert!(is_verified(&file), "the stamp is no checksum");
        if cfg!(unix) {
            write(&other, "abd");
            fs::rename(&other, &file).unwrap();
            assert!(!is_verified(&file), "another file");
        }
        fs::write(stamp_path(&file), "x".repeat(2000)).unwrap();
        assert!(!is_verified(&file));
    }

    #[test]
    fn names_become_harmless() {
        assert_eq!(stem(Path::new("/x/a b:c.gguf")), "a_b_c");
        assert_eq!(stem(Path::new("m.chaski")), "m");
    }
}
