//! New metadata for a file that is there.
//!
//! A certificate is measured after a model was converted, a chat template gets corrected: neither
//! should cost a copy of gigabytes. The metadata is the last section, so it can be exchanged in
//! place. At every moment the header on the disk describes a file that opens, with the old
//! metadata or with the new:
//!
//! ```text
//!    what is in the file                    the header says
//! 0  ... | old                              ... old
//! 1                                         ... old, renewal up to the end of `new`
//! 2  ... | old | new
//! 3                                         ... renewal (over `old`), new
//! 4  ... | new | new
//! 5                                         ... new, renewal (over the second `new`)
//! 6  ... | new
//! 7                                         ... new
//! ```
//!
//! Each step is on the disk before the next one begins. The header is 512 bytes, one sector, and is
//! written by one call: that such a write happens as a whole or not at all is what this rests on.
//! The bytes of a *renewal* section mean nothing, and a file may end within it; a file that has one
//! opens, fails `verify`, and is repaired by the next renewal. The result is byte for byte the file
//! that would have been written with the new metadata from the start.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    error::ContainerError,
    header::{Header, MAX_SECTIONS, SECTION_ALIGN, SectionEntry, SectionKind, align_up},
    json,
    reader::Container,
};

/// Replaces the metadata of the file at `path` by `metadata`, a JSON object, in place and without
/// reading or moving a tensor. Repairs a file whose last renewal was cut short.
///
/// Whoever has the file open keeps the metadata that was there when he opened it. A crash at any
/// moment leaves a file with either the old metadata or the new.
///
/// # Errors
///
/// The file cannot be opened for writing, is no sound container, has something behind its
/// metadata, or is being renewed by another process; or `metadata` cannot stand in a file. If
/// writing fails half way, the file can still be used; call again.
pub fn rewrite_metadata(path: impl AsRef<Path>, metadata: &str) -> Result<(), ContainerError> {
    let path = path.as_ref();
    let failed = |source| ContainerError::Open {
        path: path.to_owned(),
        source,
    };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(ContainerError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    // Where the file system has no locks, two renewals at once are the user's risk.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(ContainerError::Busy {
            path: path.to_owned(),
        });
    }
    rewrite(&file, Container::open(path)?, metadata).map_err(|source| match source {
        Failure::Refused(e) => e,
        Failure::Io(source) => ContainerError::WriteFile {
            path: path.to_owned(),
            source,
        },
    })
}

/// Why a renewal failed.
pub(super) enum Failure {
    /// The metadata, or what is there, is not fit for it.
    Refused(ContainerError),
    /// The file could not be written.
    Io(io::Error),
}

/// Renews the metadata of `file`, which is open as `container` too.
pub(super) fn rewrite(file: &File, container: Container, metadata: &str) -> Result<(), Failure> {
    let header = container.index().header.clone();
    let steps = plan_steps(header, container.metadata(), metadata).map_err(Failure::Refused)?;
    // Windows does not shorten a file that is mapped.
    drop(container);
    run(file, &steps).map_err(Failure::Io)
}

/// A change of the file that is on the disk before the next one begins.
#[derive(Debug)]
enum Step {
    Write { at: u64, bytes: Vec<u8> },
    SetLen(u64),
}

fn run(mut file: &File, steps: &[Step]) -> io::Result<()> {
    for step in steps {
        match step {
            Step::Write { at, bytes } => {
                file.seek(SeekFrom::Start(*at))?;
                file.write_all(bytes)?;
            }
            Step::SetLen(len) => file.set_len(*len)?,
        }
        file.sync_all()?;
    }
    Ok(())
}

/// The steps from a file with this header and the metadata `old` to one with the metadata `new`.
fn plan_steps(mut header: Header, old: &str, new: &str) -> Result<Vec<Step>, ContainerError> {
    let last = header.sections.len() - 1;
    json::check_metadata(new.as_bytes(), last)?;
    let mut steps = Vec::new();
    // What an earlier renewal left: from step 3 on its new metadata count, before that the old.
    if let Some(renewal) = header
        .sections
        .iter()
        .position(|s| s.kind == SectionKind::Renewal)
    {
        header.sections.remove(renewal);
        if renewal + 1 == last && header.sections[renewal].kind == SectionKind::Metadata {
            let copy = header.sections[renewal];
            if tail(&header).is_none_or(|(_, start)| start + copy.len > copy.offset) {
                return Err(ContainerError::MetadataNotLast);
            }
            move_to_place(&mut steps, &mut header, old.as_bytes(), copy.end());
        } else if renewal == last {
            drop_renewal(&mut steps, &mut header);
        } else {
            return Err(ContainerError::MetadataNotLast);
        }
    }
    if header.sections.len() == MAX_SECTIONS {
        return Err(ContainerError::TooManySections {
            n: MAX_SECTIONS + 1,
            max: MAX_SECTIONS,
        });
    }
    if header.sections.last().map(|s| s.kind) != Some(SectionKind::Metadata) {
        return Err(ContainerError::MetadataNotLast);
    }
    if old == new {
        return Ok(steps);
    }

    let place = tail(&header).and_then(|(before, start)| {
        let used = old.len().max(new.len()) as u64;
        Some((before, align_up(start.checked_add(used)?, SECTION_ALIGN)?))
    });
    let Some((before, copy)) = place else {
        return Err(ContainerError::MetadataNotLast);
    };
    let end = copy + new.len() as u64;
    // 1, 2
    let mut growing = header.clone();
    growing.sections.push(renewal(header.file_len, end));
    growing.file_len = end;
    steps.push(put(&growing));
    steps.push(Step::Write {
        at: copy,
        bytes: new.as_bytes().to_vec(),
    });
    // 3
    header.sections.pop();
    header.sections.push(renewal(before, copy));
    header.sections.push(metadata_at(copy, new.as_bytes()));
    header.file_len = end;
    steps.push(put(&header));
    let renewal = header.sections.len() - 2;
    header.sections.remove(renewal);
    move_to_place(&mut steps, &mut header, new.as_bytes(), end);
    Ok(steps)
}

/// Steps 4 to 7: the metadata stand behind a gap and move to where they belong.
fn move_to_place(steps: &mut Vec<Step>, header: &mut Header, metadata: &[u8], end: u64) {
    header.sections.pop();
    let before = header.sections.last().map_or(0, SectionEntry::end);
    let start = before.next_multiple_of(SECTION_ALIGN);
    let mut bytes = vec![0; (start - before) as usize];
    bytes.extend_from_slice(metadata);
    steps.push(Step::Write { at: before, bytes });
    header.sections.push(metadata_at(start, metadata));
    let own_end = start + metadata.len() as u64;
    header.sections.push(renewal(own_end, end));
    header.file_len = end;
    steps.push(put(header));
    header.sections.pop();
    drop_renewal(steps, header);
}

/// Steps 6 and 7: the file ends with the last of these sections.
fn drop_renewal(steps: &mut Vec<Step>, header: &mut Header) {
    header.file_len = header.sections.last().map_or(0, SectionEntry::end);
    steps.push(Step::SetLen(header.file_len));
    steps.push(put(header));
}

/// Where the section before the last one ends, and where the last one belongs.
fn tail(header: &Header) -> Option<(u64, u64)> {
    let before = header.sections.iter().rev().nth(1)?.end();
    Some((before, align_up(before, SECTION_ALIGN)?))
}

fn put(header: &Header) -> Step {
    Step::Write {
        at: 0,
        bytes: header.encode().to_vec(),
    }
}

fn renewal(offset: u64, end: u64) -> SectionEntry {
    SectionEntry {
        kind: SectionKind::Renewal,
        offset,
        len: end - offset,
        xxh3: 0,
    }
}

fn metadata_at(offset: u64, bytes: &[u8]) -> SectionEntry {
    let kind = SectionKind::Metadata;
    SectionEntry {
        kind,
        offset,
        len: bytes.len() as u64,
        xxh3: xxh3_64(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::container::{ContainerWriter, DataPlan, Section, TensorDecl, TensorKind};

    fn file(metadata: &str) -> Vec<u8> {
        let vector = TensorDecl {
            name: "v".to_owned(),
            kind: TensorKind::Vector { len: 2 },
            section_start: true,
            interleaved: false,
        };
        let plan = DataPlan::new(vec![vector]).unwrap();
        let mut writer = ContainerWriter::new(Cursor::new(Vec::new()), plan).unwrap();
        writer.write(0, &[1; 8]).unwrap();
        let tokenizer = Section {
            kind: SectionKind::Tokenizer,
            bytes: &[9; 70],
        };
        writer.finish(metadata, &[tokenizer]).unwrap().into_inner()
    }

    fn apply(file: &mut Vec<u8>, step: &Step) {
        match step {
            Step::Write { at, bytes } => {
                let (start, end) = (*at as usize, *at as usize + bytes.len());
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(bytes);
            }
            Step::SetLen(len) => file.resize(*len as usize, 0),
        }
    }

    /// What the disk may hold if the system stops during `step`.
    fn halves(before: &[u8], step: &Step) -> Vec<Vec<u8>> {
        let mut states = vec![before.to_vec()];
        match step {
            Step::Write { at, bytes } if *at > 0 => {
                let at = *at as usize;
                for n in [1, bytes.len() / 2, bytes.len() - 1] {
                    // The first bytes only, with and without the new length.
                    let mut state = before.to_vec();
                    apply(
                        &mut state,
                        &Step::Write {
                            at: at as u64,
                            bytes: bytes[..n].to_vec(),
                        },
                    );
                    states.push(state.clone());
                    state.resize(state.len().max(at + bytes.len()), 0);
                    states.push(state);
                    // The last bytes only.
                    let mut state = before.to_vec();
                    state.resize(state.len().max(at + bytes.len()), 0);
                    let tail = Step::Write {
                        at: (at + n) as u64,
                        bytes: bytes[n..].to_vec(),
                    };
                    apply(&mut state, &tail);
                    states.push(state);
                }
            }
            // The header is one sector, and a length is set at once: before or after.
            _ => {}
        }
        states
    }

    /// Renews, stopped at every moment; returns how often the old and the new metadata were found.
    fn stop_everywhere(start: &[u8], old: &str, new: &str, depth: usize) -> [usize; 2] {
        let header = Header::decode(start).unwrap();
        let steps = plan_steps(header, old, new).unwrap();
        let (mut now, mut seen) = (start.to_vec(), [0; 2]);
        for step in &steps {
            for state in halves(&now, step) {
                let container = Container::from_bytes(state.clone()).unwrap();
                let found = container.metadata();
                assert!(found == old || found == new, "{found}");
                seen[usize::from(found == new)] += 1;
                assert_eq!(container.tensor("v").unwrap().bytes, [1; 8]);
                assert_eq!(
                    container.section(SectionKind::Tokenizer),
                    Some(&[9; 70][..])
                );
                match container.verify(|_, _| {}) {
                    Ok(()) => assert!(state == file(found), "verified but not as written"),
                    Err(e) => assert!(matches!(e, ContainerError::RenewalCutShort { .. }), "{e}"),
                }
                if depth > 0 {
                    // Once more from here, to something else, and stopped again.
                    for third in [old, new, "{\"third\": 3}"] {
                        stop_everywhere(&state, found, third, depth - 1);
                    }
                }
            }
            apply(&mut now, step);
        }
        assert!(now == file(new), "as if written with the new metadata");
        seen
    }

    #[test]
    fn a_renewal_can_be_stopped_at_any_moment_and_taken_up_again() {
        let long = format!("{{\"long\": \"{}\"}}", "x".repeat(300));
        for (old, new) in [("{}", &*long), (&long, "{}"), ("{\"a\": 1}", "{\"a\": 2}")] {
            let [olds, news] = stop_everywhere(&file(old), old, new, 1);
            assert!(olds > 5 && news > 5, "{olds} times the old, {news} the new");
        }
    }

    #[test]
    fn equal_metadata_are_not_written() {
        let start = file("{}");
        assert!(
            plan_steps(Header::decode(&start).unwrap(), "{}", "{}")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn only_the_end_of_a_file_is_renewed() {
        let mut header = Header::decode(&file("{}")).unwrap();
        let last = header.sections.len() - 1;
        header.sections.swap(last, last - 1);
        let error = plan_steps(header.clone(), "{}", "{\"a\":1}").unwrap_err();
        assert!(matches!(error, ContainerError::MetadataNotLast), "{error}");
        // A renewal section that is somewhere else.
        header.sections.insert(1, renewal(0, 0));
        let error = plan_steps(header, "{}", "{\"a\":1}").unwrap_err();
        assert!(matches!(error, ContainerError::MetadataNotLast), "{error}");
    }
}
