//! An open file.

use std::{fmt, io, ops::Range, path::Path};

use byteorder::{ByteOrder, LittleEndian};

use super::{
    atomic::is_temporary,
    directory::TensorEntry,
    error::ContainerError,
    header::{SectionEntry, SectionKind},
    index::Index,
    mapped::Mapped,
    plan::TensorKind,
};
use crate::{TensorLayout, TileRun};

/// A file whose every byte but the tensors' own has been checked.
///
/// Share it between threads behind an `Arc`; views borrow it.
#[derive(Debug)]
pub struct Container {
    bytes: Bytes,
    index: Index,
}

enum Bytes {
    Mapped(Mapped),
    Owned(Vec<u8>),
    Other(Box<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, len) = match self {
            Self::Mapped(mapped) => ("Mapped", mapped.bytes().len()),
            Self::Owned(bytes) => ("Owned", bytes.len()),
            Self::Other(owner) => ("Other", (**owner).as_ref().len()),
        };
        write!(f, "{kind}({len} bytes)")
    }
}

impl Container {
    /// Maps the file at `path` and checks all of it but the tensors' own bytes: header, directory,
    /// metadata, every other section with its checksum, all padding between sections, and that
    /// the tensors lie where the plan of such tensors has them. [`Container::verify`] checks the
    /// tensors too.
    ///
    /// The file must stay as it is while it is open; see the module's text on files that change.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or is not a sound container; the error names the field.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ContainerError> {
        if is_temporary(path.as_ref()) {
            return Err(ContainerError::Unfinished);
        }
        Self::open_unnamed(path.as_ref())
    }

    /// The same, whatever the file's name.
    pub(super) fn open_unnamed(path: &Path) -> Result<Self, ContainerError> {
        let mapped = Mapped::open(path)?;
        let index = Index::parse(mapped.bytes())?;
        Ok(Self {
            bytes: Bytes::Mapped(mapped),
            index,
        })
    }

    /// The same for a file in memory. Its tiles start wherever the allocator put them: a mapped
    /// file is aligned, this one need not be.
    ///
    /// # Errors
    ///
    /// As [`Container::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ContainerError> {
        let index = Index::parse(&bytes)?;
        Ok(Self {
            bytes: Bytes::Owned(bytes),
            index,
        })
    }

    /// The same for a file in memory of another kind, such as huge pages. `owner` must give the same
    /// bytes each time; if it does not, tensors are wrong or reading them panics.
    ///
    /// # Errors
    ///
    /// As [`Container::open`].
    pub fn from_owner(owner: Box<dyn AsRef<[u8]> + Send + Sync>) -> Result<Self, ContainerError> {
        let index = Index::parse((*owner).as_ref())?;
        Ok(Self {
            bytes: Bytes::Other(owner),
            index,
        })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped.bytes(),
            Bytes::Owned(bytes) => bytes,
            Bytes::Other(owner) => (**owner).as_ref(),
        }
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.index.tensors
    }

    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.index.tensor(name).map(|i| self.tensor_at(i))
    }

    /// Tensor `index` of [`Container::tensors`].
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn tensor_at(&self, index: usize) -> TensorView<'_> {
        let bytes = &self.bytes()[self.index.tensor_range(index)];
        TensorView {
            entry: &self.index.tensors[index],
            bytes,
        }
    }

    /// The bytes of tensor `index` and of the next one, whose tiles alternate with its own: tile 0 of
    /// the one, tile 0 of the other, ...; without gaps.
    ///
    /// # Panics
    ///
    /// If tensor `index` is not the first of such a pair.
    pub fn pair_bytes(&self, index: usize) -> &[u8] {
        let [first, second] = [index, index + 1].map(|i| self.index.tensor_range(i));
        let tensors = &self.index.tensors;
        let tile = tensors[index].kind.unit_bytes() as u64;
        let alternate = tensors[index].tile_stride == 2 * tile
            && tensors[index + 1].offset == tensors[index].offset + tile;
        assert!(alternate, "tensor {index} does not alternate with the next");
        &self.bytes()[first.start..second.end]
    }

    /// The metadata: a JSON object.
    pub fn metadata(&self) -> &str {
        &self.index.metadata
    }

    /// The file's sections in the order of their positions.
    pub fn sections(&self) -> &[SectionEntry] {
        &self.index.header.sections
    }

    /// The bytes of a section.
    pub fn section(&self, kind: SectionKind) -> Option<&[u8]> {
        let section = self.index.header.section(kind)?;
        self.bytes().get(section.range())
    }

    /// Where the tensors lie in the file; starts at a multiple of 64 KiB.
    pub fn data_range(&self) -> Range<usize> {
        self.index.data_range()
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Asks the system to read the tensors into memory in the background. Does nothing where that
    /// cannot be asked for, or for a file in memory.
    ///
    /// # Errors
    ///
    /// What the system answers; the file can be used all the same.
    pub fn prefetch(&self) -> io::Result<()> {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped.will_need(self.data_range()),
            Bytes::Owned(_) | Bytes::Other(_) => Ok(()),
        }
    }
}

/// A tensor's bytes in an open file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// What the directory says.
    pub entry: &'a TensorEntry,
    /// From the tensor's first byte to its last: if tiles of two matrices alternate, with the
    /// other's tiles in between.
    pub bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// The layout of a matrix.
    ///
    /// # Errors
    ///
    /// If the tensor is a vector.
    pub fn layout(&self) -> Result<&'a TensorLayout, ContainerError> {
        match &self.entry.kind {
            TensorKind::Matrix(layout) => Ok(layout),
            TensorKind::Vector { .. } => Err(ContainerError::NotAMatrix {
                name: self.entry.name.clone(),
            }),
        }
    }

    /// The tiles of a matrix.
    ///
    /// # Errors
    ///
    /// If the tensor is a vector.
    pub fn tiles(&self) -> Result<TileRun<'a>, ContainerError> {
        let layout = self.layout()?;
        let stride = self.entry.tile_stride as usize;
        Ok(TileRun::new(layout, self.bytes, layout.n_tiles(), stride))
    }

    /// The elements of a vector, `[len]`.
    ///
    /// # Errors
    ///
    /// If the tensor is a matrix.
    pub fn vector(&self) -> Result<Vec<f32>, ContainerError> {
        match &self.entry.kind {
            TensorKind::Vector { .. } => Ok(self
                .bytes
                .chunks_exact(4)
                .map(LittleEndian::read_f32)
                .collect()),
            TensorKind::Matrix(layout) => Err(ContainerError::NotAVector {
                name: self.entry.name.clone(),
                qtype: layout.qtype(),
            }),
        }
    }
}
