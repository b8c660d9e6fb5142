//! The first 512 bytes of a file: magic, version, the table of sections and a checksum.

use std::fmt;

use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::xxh3_64;

use super::error::{ContainerError, Place, Want};

/// The first bytes of every file.
pub const MAGIC: [u8; 8] = *b"\x89CHASKI\n";
/// The version of the format that this crate writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of the header. One disk sector: it is written, and renewed, as one.
pub const HEADER_BYTES: usize = 512;
/// The tensor data, and every layer in it, starts at a multiple of this many bytes: a whole number
/// of pages wherever pages have 4, 16 or 64 KiB.
pub const DATA_ALIGN: u64 = 64 * 1024;
/// Every other section starts at a multiple of this many bytes.
pub const SECTION_ALIGN: u64 = 64;
/// Entries of the header's table.
pub const MAX_SECTIONS: usize = 16;

/// Where the table stands, and how long an entry is.
const TABLE: usize = 24;
const ENTRY_BYTES: usize = 28;
const TABLE_END: usize = TABLE + MAX_SECTIONS * ENTRY_BYTES;
const CHECKSUM: usize = HEADER_BYTES - 8;
const _: () = assert!(TABLE_END <= CHECKSUM);

/// The only flag of a section: a reader that does not know its kind may skip it.
const FLAG_OPTIONAL: u16 = 1;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SectionKind {
    /// The tensors. Its checksum is taken over the checksums of the tensors.
    Data,
    /// Name, type, shape, position and checksum of each tensor.
    Directory,
    /// A JSON object: what the model is, where it comes from, how good it is.
    Metadata,
    /// The canonical tokenizer: the original document, compressed.
    Tokenizer,
    /// The tokenizer in a form that loads fast. Optional: it can be made again.
    TokenizerFast,
    /// Bytes that mean nothing while the metadata is being renewed; in no finished file.
    Renewal,
    /// A kind that this version does not know. Written as optional, and only accepted if it is.
    Other(u16),
}

impl SectionKind {
    /// The number that stands for the kind in a file.
    pub const fn id(self) -> u16 {
        match self {
            Self::Data => 1,
            Self::Directory => 2,
            Self::Metadata => 3,
            Self::Tokenizer => 4,
            Self::TokenizerFast => 5,
            Self::Renewal => 0xffff,
            Self::Other(id) => id,
        }
    }

    /// The kind that `id` stands for.
    pub const fn from_id(id: u16) -> Self {
        match id {
            1 => Self::Data,
            2 => Self::Directory,
            3 => Self::Metadata,
            4 => Self::Tokenizer,
            5 => Self::TokenizerFast,
            0xffff => Self::Renewal,
            _ => Self::Other(id),
        }
    }

    /// Whether a reader that does not know the kind may skip it.
    pub const fn is_optional(self) -> bool {
        matches!(self, Self::TokenizerFast | Self::Other(_))
    }

    /// The section starts at a multiple of this many bytes.
    pub(super) const fn align(self) -> u64 {
        match self {
            Self::Data => DATA_ALIGN,
            // It begins where the section before it ends.
            Self::Renewal => 1,
            _ => SECTION_ALIGN,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.pad("data"),
            Self::Directory => f.pad("directory"),
            Self::Metadata => f.pad("metadata"),
            Self::Tokenizer => f.pad("tokenizer"),
            Self::TokenizerFast => f.pad("tokenizer-fast"),
            Self::Renewal => f.pad("renewal"),
            Self::Other(id) => f.pad(&format!("kind-{id}")),
        }
    }
}

/// An entry of the header's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionEntry {
    /// What the section holds.
    pub kind: SectionKind,
    /// Position in the file, bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// XXH3-64 of the section's bytes; of the data section: of the tensors' checksums.
    pub xxh3: u64,
}

impl SectionEntry {
    /// One past the last byte; `offset + len` was checked when the entry was read.
    pub(super) const fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// The header as read or as to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// In the order of their positions.
    pub(super) sections: Vec<SectionEntry>,
    /// Length of the whole file.
    pub(super) file_len: u64,
}

/// The next multiple of `align` (a power of two), unless it is beyond `u64`.
pub(super) const fn align_up(n: u64, align: u64) -> Option<u64> {
    match n.checked_add(align - 1) {
        Some(n) => Some(n & !(align - 1)),
        None => None,
    }
}

/// The first byte of `bytes` that is not zero.
pub(super) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut start = 0;
    for chunk in bytes.chunks(ZEROS.len()) {
        if *chunk != ZEROS[..chunk.len()] {
            return chunk.iter().position(|b| *b != 0).map(|i| start + i);
        }
        start += chunk.len();
    }
    None
}

impl Header {
    /// The header's bytes.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        assert!(
            self.sections.len() <= MAX_SECTIONS,
            "{} sections",
            self.sections.len()
        );
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut out[8..], FORMAT_VERSION);
        LittleEndian::write_u32(&mut out[12..], self.sections.len() as u32);
        LittleEndian::write_u64(&mut out[16..], self.file_len);
        for (s, e) in self
            .sections
            .iter()
            .zip(out[TABLE..].chunks_exact_mut(ENTRY_BYTES))
        {
            LittleEndian::write_u16(&mut e[0..], s.kind.id());
            LittleEndian::write_u16(&mut e[2..], u16::from(s.kind.is_optional()) * FLAG_OPTIONAL);
            LittleEndian::write_u64(&mut e[4..], s.offset);
            LittleEndian::write_u64(&mut e[12..], s.len);
            LittleEndian::write_u64(&mut e[20..], s.xxh3);
        }
        let checksum = xxh3_64(&out[..CHECKSUM]);
        LittleEndian::write_u64(&mut out[CHECKSUM..], checksum);
        out
    }

    /// Reads the header of `file`, and checks what can be checked without reading on: kinds,
    /// flags, and that the sections follow each other with no more than padding between them.
    pub(super) fn decode(file: &[u8]) -> Result<Self, ContainerError> {
        let mut start = [0; 8];
        let n = file.len().min(8);
        start[..n].copy_from_slice(&file[..n]);
        if start[..n] != MAGIC[..n] {
            return Err(match start == [0; 8] {
                true => ContainerError::Unfinished,
                false => ContainerError::NotAContainer { found: start },
            });
        }
        let Some(head) = file.get(..HEADER_BYTES) else {
            let file_len = file.len() as u64;
            return Err(ContainerError::Truncated {
                file_len,
                needed: HEADER_BYTES as u64,
            });
        };
        let version = LittleEndian::read_u32(&head[8..]);
        if version != FORMAT_VERSION {
            return Err(ContainerError::Version { found: version });
        }
        if LittleEndian::read_u64(&head[CHECKSUM..]) != xxh3_64(&head[..CHECKSUM]) {
            return Err(ContainerError::HeaderChecksum);
        }
        let n_sections = LittleEndian::read_u32(&head[12..]) as usize;
        if n_sections > MAX_SECTIONS {
            return Err(ContainerError::Field {
                place: Place::Header,
                field: "section count",
                found: n_sections as u64,
                want: Want::Within(0, MAX_SECTIONS as u64),
            });
        }
        let table_end = TABLE + n_sections * ENTRY_BYTES;
        if let Some(i) = first_nonzero(&head[table_end..CHECKSUM]) {
            let at = table_end + i;
            return Err(ContainerError::NotZero {
                what: "header",
                at: at as u64,
                found: head[at],
            });
        }
        let file_len = LittleEndian::read_u64(&head[16..]);
        let sections = decode_table(&head[TABLE..table_end], file_len)?;
        for kind in [
            SectionKind::Data,
            SectionKind::Directory,
            SectionKind::Metadata,
        ] {
            if !sections.iter().any(|s| s.kind == kind) {
                return Err(ContainerError::MissingSection { kind });
            }
        }
        Ok(Self { sections, file_len })
    }

    /// Checks that a file of `len` bytes is as long as the header says.
    pub(super) fn check_file_len(&self, len: u64) -> Result<(), ContainerError> {
        // A file may end inside the bytes that mean nothing.
        let min = match self.sections.last() {
            Some(s) if s.kind == SectionKind::Renewal => s.offset,
            _ => self.file_len,
        };
        if len < min {
            return Err(ContainerError::Truncated {
                file_len: len,
                needed: min,
            });
        }
        if len > self.file_len {
            return Err(ContainerError::TrailingBytes {
                file_len: len,
                expected: self.file_len,
            });
        }
        Ok(())
    }

    /// The section of kind `kind`.
    pub(super) fn section(&self, kind: SectionKind) -> Option<&SectionEntry> {
        self.sections.iter().find(|s| s.kind == kind)
    }
}

fn decode_table(table: &[u8], file_len: u64) -> Result<Vec<SectionEntry>, ContainerError> {
    let mut sections: Vec<SectionEntry> = Vec::with_capacity(MAX_SECTIONS);
    let mut cursor = HEADER_BYTES as u64;
    for (index, e) in table.chunks_exact(ENTRY_BYTES).enumerate() {
        let kind = SectionKind::from_id(LittleEndian::read_u16(&e[0..]));
        let section = SectionEntry {
            kind,
            offset: LittleEndian::read_u64(&e[4..]),
            len: LittleEndian::read_u64(&e[12..]),
            xxh3: LittleEndian::read_u64(&e[20..]),
        };
        let wrong = |field, found, want| {
            Err(ContainerError::Field {
                place: Place::Section { index, kind },
                field,
                found,
                want,
            })
        };
        let data = u64::from(SectionKind::Data.id());
        if kind == SectionKind::Other(0) || (index == 0) != (kind == SectionKind::Data) {
            if sections.iter().any(|s| s.kind == kind) {
                return Err(ContainerError::DuplicateSection { kind });
            }
            let want = if index == 0 {
                Want::Exactly(data)
            } else {
                Want::Within(data + 1, 0xffff)
            };
            return wrong("kind", u64::from(kind.id()), want);
        }
        let flags = LittleEndian::read_u16(&e[2..]);
        match kind {
            SectionKind::Other(id) if flags & FLAG_OPTIONAL == 0 => {
                return Err(ContainerError::UnknownSection { kind: id });
            }
            _ => {}
        }
        let want = u16::from(kind.is_optional()) * FLAG_OPTIONAL;
        if flags != want {
            return wrong("flags", u64::from(flags), Want::Exactly(u64::from(want)));
        }
        if sections.iter().any(|s| s.kind == kind) {
            return Err(ContainerError::DuplicateSection { kind });
        }
        // Every offset follows from what stands before: no holes, no overlaps.
        match align_up(cursor, kind.align()) {
            Some(want) if section.offset == want => {}
            want => {
                let want = want.map_or(Want::Within(cursor, file_len), Want::Exactly);
                return wrong("offset", section.offset, want);
            }
        }
        let max = file_len.saturating_sub(section.offset);
        if section.offset > file_len {
            return wrong("offset", section.offset, Want::Within(cursor, file_len));
        }
        if section.len > max {
            return wrong("length", section.len, Want::Within(0, max));
        }
        if kind == SectionKind::Renewal && section.xxh3 != 0 {
            return wrong("checksum", section.xxh3, Want::Exactly(0));
        }
        cursor = section.offset + section.len;
        sections.push(section);
    }
    if cursor != file_len {
        return Err(ContainerError::Field {
            place: Place::Header,
            field: "file length",
            found: file_len,
            want: Want::Exactly(cursor),
        });
    }
    Ok(sections)
}
