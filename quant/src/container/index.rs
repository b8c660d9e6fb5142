//! All of a file but its tensors: read and checked once.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    directory::{self, TensorEntry, data_hash},
    error::{ContainerError, Place, Want},
    header::{HEADER_BYTES, Header, SectionEntry, SectionKind, first_nonzero},
    json,
};

/// What a file holds, proven to fit the file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) header: Header,
    pub(super) tensors: Vec<TensorEntry>,
    /// Numbers of the tensors in the order of their names.
    by_name: Vec<u32>,
    /// A copy: a renewal rewrites these bytes of the file, and a `str` must not change.
    pub(super) metadata: String,
}

impl Index {
    /// Reads the index of the whole file `file`.
    pub(super) fn parse(file: &[u8]) -> Result<Self, ContainerError> {
        let header = Header::decode(file)?;
        header.check_file_len(file.len() as u64)?;

        let mut end = HEADER_BYTES;
        for section in &header.sections {
            let range = section.range();
            check_zero(file, end..range.start)?;
            end = range.end;
            let ours = !matches!(section.kind, SectionKind::Data | SectionKind::Renewal);
            if ours && xxh3_64(&file[range]) != section.xxh3 {
                return Err(ContainerError::SectionChecksum { kind: section.kind });
            }
        }

        let part = |kind| {
            let index = header.sections.iter().position(|s| s.kind == kind);
            let index = index.ok_or(ContainerError::MissingSection { kind })?;
            Ok((index, header.sections[index]))
        };
        let (data_index, data) = part(SectionKind::Data)?;
        let (_, directory) = part(SectionKind::Directory)?;
        let (tensors, by_name) = directory::decode(&file[directory.range()], data.len)?;
        let hash = data_hash(tensors.iter().map(|t| t.xxh3));
        if hash != data.xxh3 {
            return Err(ContainerError::Field {
                place: Place::Section {
                    index: data_index,
                    kind: SectionKind::Data,
                },
                field: "checksum",
                found: data.xxh3,
                want: Want::Exactly(hash),
            });
        }

        let (index, metadata) = part(SectionKind::Metadata)?;
        let metadata = json::check_metadata(&file[metadata.range()], index)?.to_owned();
        Ok(Self {
            header,
            tensors,
            by_name,
            metadata,
        })
    }

    /// The number of the tensor `name`.
    pub(super) fn tensor(&self, name: &str) -> Option<usize> {
        let found = self
            .by_name
            .binary_search_by_key(&name, |i| &self.tensors[*i as usize].name)
            .ok()?;
        Some(self.by_name[found] as usize)
    }

    /// The bytes of the data in the file.
    pub(super) fn data_range(&self) -> Range<usize> {
        // `Header::decode` accepts no file without data, and only as its first section.
        self.header.sections[0].range()
    }

    /// The bytes of tensor `index` in the file, with what lies between its tiles.
    pub(super) fn tensor_range(&self, index: usize) -> Range<usize> {
        let tensor = &self.tensors[index];
        let start = self.data_range().start + tensor.offset as usize;
        start..start + tensor.span()
    }
}

impl SectionEntry {
    /// The section's bytes in the file.
    pub(super) fn range(&self) -> Range<usize> {
        self.offset as usize..self.end() as usize
    }
}

/// Checks that the bytes `range` of `file` are padding.
pub(super) fn check_zero(file: &[u8], range: Range<usize>) -> Result<(), ContainerError> {
    match first_nonzero(&file[range.clone()]) {
        Some(i) => {
            let at = range.start + i;
            Err(ContainerError::NotZero {
                what: "padding",
                at: at as u64,
                found: file[at],
            })
        }
        None => Ok(()),
    }
}
