//! The pipeline itself: chunks of any size, destinations that refuse bytes.

use std::{
    io::{self, Cursor, Seek, SeekFrom, Write},
    path::Path,
};

use safetensors::Dtype;

use super::{checkpoint::Checkpoint, conversion::options};
use crate::{
    ConvertError, ConvertPlan, Silent,
    pipeline::{Limits, space::name_full_disk, texts, write},
    plan,
    source::{self, Source},
};

/// Converts to `out` as [`crate::convert`] does, in chunks of `chunk` bytes.
fn write_chunks<W: Write + Seek + Send>(
    source: &dyn Source,
    plan: &ConvertPlan,
    limits: Limits,
    out: W,
) -> Result<W, ConvertError> {
    let tokenizer = texts::TokenizerForms::read(source).unwrap().unwrap();
    let options = options("q4");
    let metadata = texts::metadata(source, plan, &options, Some(&tokenizer), &[]).unwrap();
    let sections = tokenizer.sections();
    write(
        source, plan, limits, out, metadata, &sections, &Silent, None,
    )
    .map(|(out, _)| out)
}

#[test]
fn chunks_of_any_size_give_the_same_bytes() {
    let dir = Checkpoint::new(Dtype::BF16, false).write();
    let source = source::open(dir.path()).unwrap();
    let plan = plan(&*source, &options("q4")).unwrap();
    let mut files = Vec::new();
    // One tile a chunk, some tiles, all of them.
    for (chunk, threads) in [(1, 1), (1, 3), (4000, 2), (40_000, 1), (1 << 30, 2)] {
        let out = Cursor::new(Vec::new());
        let out = write_chunks(&*source, &plan, Limits { threads, chunk }, out).unwrap();
        files.push(out.into_inner());
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}

/// A file on a disk with room for `room` bytes.
struct Disk {
    file: Cursor<Vec<u8>>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.position() as usize + bytes.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[test]
fn a_disk_that_fills_up_ends_the_conversion_wherever_it_is() {
    let dir = Checkpoint::new(Dtype::BF16, false).write();
    let source = source::open(dir.path()).unwrap();
    let plan = plan(&*source, &options("q4")).unwrap();
    let attempt = |room| {
        let disk = Disk {
            file: Cursor::new(Vec::new()),
            room,
        };
        let limits = Limits {
            threads: 2,
            chunk: 4000,
        };
        write_chunks(&*source, &plan, limits, disk)
    };
    let len = attempt(usize::MAX).unwrap().file.into_inner().len();
    for room in (0..len).step_by(len / 40).chain([len - 1]) {
        let Err(err) = attempt(room) else {
            panic!("{room} of {len} bytes were enough")
        };
        let err = name_full_disk(err, Path::new("model.chaski"), len as u64);
        assert!(
            matches!(err, ConvertError::DiskFull { needed, .. } if needed == len as u64),
            "{room} of {len}: {err}"
        );
    }
    attempt(len).unwrap();
}
