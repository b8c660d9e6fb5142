//! Writing a file.

use std::{
    fmt,
    io::{Seek, SeekFrom, Write},
};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{
    directory::{self, data_hash},
    error::ContainerError,
    header::{DATA_ALIGN, Header, MAX_SECTIONS, SECTION_ALIGN, SectionEntry, SectionKind},
    json,
    plan::DataPlan,
};

/// A section to be written behind the tensors.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// What it holds. Data, directory and metadata are the writer's own.
    pub kind: SectionKind,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Writes a container: the tensors in the order of the plan, then the rest, and at last the header.
/// Until then the file starts with zeros and cannot be opened.
pub struct ContainerWriter<W> {
    out: W,
    plan: DataPlan,
    /// Position in the data.
    position: u64,
    /// The tensor whose bytes come next.
    next: usize,
    /// Bytes written of tensor `next`, and of the one it alternates with.
    written: [usize; 2],
    /// Their checksums so far.
    running: [Box<Xxh3Default>; 2],
    hashes: Vec<u64>,
}

impl<W> fmt::Debug for ContainerWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerWriter")
            .field("next", &self.next)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Seek> ContainerWriter<W> {
    /// Starts a file at the beginning of `out`, which should be buffered.
    ///
    /// # Errors
    ///
    /// `out` refuses bytes.
    pub fn new(mut out: W, plan: DataPlan) -> Result<Self, ContainerError> {
        out.seek(SeekFrom::Start(0))
            .map_err(ContainerError::Write)?;
        write_zeros(&mut out, DATA_ALIGN)?;
        Ok(Self {
            out,
            position: 0,
            next: 0,
            written: [0; 2],
            running: Default::default(),
            hashes: Vec::with_capacity(plan.decls().len()),
            plan,
        })
    }

    /// What is to be written.
    pub fn plan(&self) -> &DataPlan {
        &self.plan
    }

    /// Writes the next bytes of tensor `tensor`: one or more whole tiles of a matrix, the whole of
    /// a vector, one tile of a matrix that is interleaved. The tensors come in the order of the
    /// plan; two that are interleaved take turns.
    ///
    /// # Errors
    ///
    /// It is another tensor's turn, the length is wrong, or the destination refuses bytes.
    pub fn write(&mut self, tensor: usize, bytes: &[u8]) -> Result<(), ContainerError> {
        let decls = self.plan.decls();
        // The one whose turn it is: of a pair, the one that is behind.
        let second = self.written[0] > self.written[1] && self.is_pair();
        let turn = self.next + usize::from(second);
        let Some(decl) = decls.get(turn).filter(|_| turn == tensor) else {
            let expected = decls.get(turn).map(|d| d.name.clone());
            return Err(ContainerError::WrongTensor {
                expected,
                got: tensor,
            });
        };
        let (unit, total) = (decl.kind.unit_bytes(), decl.kind.bytes());
        let written = &mut self.written[usize::from(second)];
        let max = if decls[self.next].interleaved {
            unit
        } else {
            total - *written
        };
        if bytes.is_empty() || !bytes.len().is_multiple_of(unit) || bytes.len() > max {
            let name = decl.name.clone();
            return Err(ContainerError::WrongLength {
                name,
                got: bytes.len(),
                unit,
                max,
            });
        }
        if *written == 0 && !second {
            let offset = self.plan.offset(turn);
            write_zeros(&mut self.out, offset - self.position)?;
            self.position = offset;
        }
        self.out.write_all(bytes).map_err(ContainerError::Write)?;
        self.position += bytes.len() as u64;
        *written += bytes.len();
        self.running[usize::from(second)].update(bytes);

        let pair = self.is_pair();
        if self.written[usize::from(pair)] == total {
            for done in 0..=usize::from(pair) {
                self.hashes.push(self.running[done].digest());
                self.running[done].reset();
                self.written[done] = 0;
                self.next += 1;
            }
        }
        Ok(())
    }

    /// Whether the tensor whose turn it is alternates with the one behind it.
    fn is_pair(&self) -> bool {
        self.plan
            .decls()
            .get(self.next)
            .is_some_and(|d| d.interleaved)
    }

    /// Writes directory, sections, metadata and, last, the header. Flushes, and gives `out` back.
    ///
    /// * `metadata`: a JSON object.
    /// * `sections`: in the order in which they are to stand in the file, at most 12.
    ///
    /// # Errors
    ///
    /// A tensor is incomplete, the metadata or a section's kind cannot stand in a file, or the
    /// destination refuses bytes.
    pub fn finish(mut self, metadata: &str, sections: &[Section<'_>]) -> Result<W, ContainerError> {
        if let Some(decl) = self.plan.decls().get(self.next) {
            return Err(ContainerError::Incomplete {
                name: decl.name.clone(),
            });
        }
        // One entry stays free: renewing the metadata needs it.
        let n = sections.len() + 3;
        if n > MAX_SECTIONS - 1 {
            return Err(ContainerError::TooManySections {
                n,
                max: MAX_SECTIONS - 1,
            });
        }
        json::check_metadata(metadata.as_bytes(), n - 1)?;
        let data = SectionEntry {
            kind: SectionKind::Data,
            offset: DATA_ALIGN,
            len: self.plan.data_len(),
            xxh3: data_hash(self.hashes.iter().copied()),
        };
        let mut header = Header {
            sections: vec![data],
            file_len: data.end(),
        };
        let directory = directory::encode(&self.plan, &self.hashes);
        self.section(&mut header, SectionKind::Directory, &directory)?;
        for section in sections {
            let kind = section.kind;
            let reserved = match kind {
                SectionKind::Tokenizer | SectionKind::TokenizerFast => false,
                // A number that stands for a kind with a name is not another kind.
                SectionKind::Other(id) => id == 0 || SectionKind::from_id(id) != kind,
                _ => true,
            };
            if reserved {
                return Err(ContainerError::ReservedSection { kind });
            }
            if header.section(kind).is_some() {
                return Err(ContainerError::DuplicateSection { kind });
            }
            self.section(&mut header, kind, section.bytes)?;
        }
        self.section(&mut header, SectionKind::Metadata, metadata.as_bytes())?;
        let mut put_header = || {
            self.out.flush()?;
            self.out.seek(SeekFrom::Start(0))?;
            self.out.write_all(&header.encode())?;
            self.out.flush()
        };
        put_header().map_err(ContainerError::Write)?;
        Ok(self.out)
    }

    fn section(
        &mut self,
        header: &mut Header,
        kind: SectionKind,
        bytes: &[u8],
    ) -> Result<(), ContainerError> {
        let offset = header.file_len.next_multiple_of(SECTION_ALIGN);
        write_zeros(&mut self.out, offset - header.file_len)?;
        self.out.write_all(bytes).map_err(ContainerError::Write)?;
        let section = SectionEntry {
            kind,
            offset,
            len: bytes.len() as u64,
            xxh3: xxh3_64(bytes),
        };
        header.file_len = section.end();
        header.sections.push(section);
        Ok(())
    }
}

fn write_zeros(out: &mut impl Write, n: u64) -> Result<(), ContainerError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut left = n;
    while left > 0 {
        let now = left.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..now as usize])
            .map_err(ContainerError::Write)?;
        left -= now;
    }
    Ok(())
}
