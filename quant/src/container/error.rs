//! What can be wrong with a file, with the plan of one, or with writing one.

use std::{error::Error, fmt, io, path::PathBuf, str::Utf8Error};

use super::header::{FORMAT_VERSION, SectionKind};
use crate::{LayoutError, QuantType, tile::TileError};

/// Why a container could not be planned, written, opened or verified.
#[derive(Debug)]
#[non_exhaustive]
pub enum ContainerError {
    /// A file could not be opened or mapped.
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path names a directory, a pipe or a device.
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file to be written is there already, and replacing it was not asked for.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written; a full disk is one cause.
    WriteFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process renews the metadata of the same file.
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The destination of a [`ContainerWriter`](super::ContainerWriter) refused bytes.
    Write(io::Error),

    /// The file does not start with the magic bytes.
    NotAContainer {
        /// Its first bytes, zeros where it has fewer.
        found: [u8; 8],
    },
    /// The header is all zero, or the name is that of a file being written: never finished.
    Unfinished,
    /// The file is of another version of the format.
    Version {
        /// The version that the header states.
        found: u32,
    },
    /// The header does not match its own checksum.
    HeaderChecksum,
    /// The file ends before it should.
    Truncated {
        /// Its length.
        file_len: u64,
        /// The length that it must have at least.
        needed: u64,
    },
    /// There are bytes after the last section.
    TrailingBytes {
        /// The length of the file.
        file_len: u64,
        /// The length that its header states.
        expected: u64,
    },
    /// A number of the header or the tensor directory is not what it must be.
    Field {
        /// Which part of the file.
        place: Place,
        /// The field's name as `docs/format.md` spells it.
        field: &'static str,
        /// What is there.
        found: u64,
        /// What must be there.
        want: Want,
    },
    /// A section of a kind that this version does not know and that is not marked optional.
    UnknownSection {
        /// The number of its kind.
        kind: u16,
    },
    /// Two sections of one kind.
    DuplicateSection {
        /// The kind.
        kind: SectionKind,
    },
    /// A section that every file has is not there.
    MissingSection {
        /// The kind.
        kind: SectionKind,
    },
    /// The bytes of a section do not match its checksum.
    SectionChecksum {
        /// The section.
        kind: SectionKind,
    },
    /// A byte that must be zero is not.
    NotZero {
        /// Where: `header` or `padding`.
        what: &'static str,
        /// Its position in the file.
        at: u64,
        /// Its value.
        found: u8,
    },
    /// A renewal of the metadata was cut short. The file can be used; the next renewal repairs it.
    RenewalCutShort {
        /// First of the bytes that nothing accounts for.
        start: u64,
        /// End of these bytes.
        end: u64,
    },
    /// The file's directory or metadata is not what it was when the file was opened.
    Changed,

    /// A name that no tensor may have.
    TensorName {
        /// Number of the tensor in file order.
        index: usize,
        /// What is wrong.
        problem: NameProblem,
    },
    /// Two tensors of one name.
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// A tensor's shape is impossible.
    Layout {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: LayoutError,
    },
    /// A vector without elements or with too many.
    VectorLen {
        /// The tensor.
        name: String,
        /// Its number of elements.
        len: usize,
    },
    /// A tensor is marked as interleaved with the next one and cannot be.
    Interleaved {
        /// The first of the two.
        name: String,
        /// What is wrong.
        problem: InterleaveProblem,
    },
    /// More tensors than a file may hold.
    TooManyTensors {
        /// How many there would be.
        n: usize,
        /// How many there may be.
        max: usize,
    },
    /// The tensors together are longer than a file can be.
    DataTooLong {
        /// The first tensor that does not fit.
        name: String,
    },
    /// A matrix was asked for, and the tensor is a vector.
    NotAMatrix {
        /// The tensor.
        name: String,
    },
    /// A vector was asked for, and the tensor is a matrix.
    NotAVector {
        /// The tensor.
        name: String,
        /// The element type of the matrix.
        qtype: QuantType,
    },
    /// A tensor's bytes do not match its checksum.
    TensorChecksum {
        /// The tensor.
        name: String,
    },
    /// A tile holds bytes that no writer may write.
    Tile {
        /// The tensor's name.
        name: String,
        /// The tile, from 0.
        tile: usize,
        /// What is wrong with it.
        source: TileError,
    },
    /// An element of a vector is an infinity or not a number.
    NotFinite {
        /// The tensor.
        name: String,
        /// Which element.
        index: usize,
    },

    /// The metadata is not UTF-8.
    MetadataUtf8(Utf8Error),
    /// The metadata is not a JSON object, is too deep or has a key twice.
    MetadataJson(serde_json::Error),
    /// The metadata is not the last section, so that it cannot be renewed in place.
    MetadataNotLast,

    /// Bytes were written for a tensor whose turn it is not.
    WrongTensor {
        /// The tensor whose turn it is; none if all are written.
        expected: Option<String>,
        /// Number of the tensor that was given.
        got: usize,
    },
    /// A wrong number of bytes was written for a tensor.
    WrongLength {
        /// The tensor.
        name: String,
        /// How many bytes were given.
        got: usize,
        /// A multiple of this many is wanted.
        unit: usize,
        /// At most this many.
        max: usize,
    },
    /// The file was to be finished before all tensors were written.
    Incomplete {
        /// The first tensor that is not there, or not as a whole.
        name: String,
    },
    /// A section was to be written that the writer makes itself.
    ReservedSection {
        /// Its kind.
        kind: SectionKind,
    },
    /// More sections than the header's table can hold.
    TooManySections {
        /// How many there would be.
        n: usize,
        /// How many there may be.
        max: usize,
    },
}

/// The part of a file to which a [`ContainerError::Field`] belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The header, its table aside.
    Header,
    /// An entry of the header's table.
    Section {
        /// Number of the entry.
        index: usize,
        /// What the entry calls its section.
        kind: SectionKind,
    },
    /// The head of the tensor directory.
    Directory,
    /// An entry of the tensor directory.
    Tensor {
        /// Number of the entry.
        index: usize,
        /// The tensor's name, as far as it could be read.
        name: Option<String>,
    },
}

/// The values that a field may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want {
    /// One value.
    Exactly(u64),
    /// A value in `.0..=.1`.
    Within(u64, u64),
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// It is empty or longer than 255 bytes.
    Length {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It is not UTF-8.
    Utf8(Utf8Error),
    /// It holds a control character.
    Control {
        /// The character.
        found: char,
    },
}

/// Why two tensors cannot alternate tile by tile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterleaveProblem {
    /// There is no next tensor.
    NoNext,
    /// The next tensor has another shape or type, or one of the two is a vector.
    Unequal {
        /// The next tensor.
        next: String,
    },
    /// The next tensor is itself marked: as interleaved, or as the start of a layer.
    NextMarked {
        /// The next tensor.
        next: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Section { index, kind } => write!(f, "section {index} ({kind})"),
            Self::Directory => f.write_str("tensor directory"),
            Self::Tensor { index, name: None } => write!(f, "tensor {index}"),
            Self::Tensor {
                index,
                name: Some(name),
            } => write!(f, "tensor {index} (`{name}`)"),
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(v) => write!(f, "{v}"),
            Self::Within(min, max) => write!(f, "{min}..={max}"),
        }
    }
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { bytes } => write!(f, "a name of {bytes} bytes, expected 1..=255"),
            Self::Utf8(cause) => write!(f, "the name is not UTF-8: {cause}"),
            Self::Control { found } => {
                write!(
                    f,
                    "the name holds the control character {}",
                    found.escape_unicode()
                )
            }
        }
    }
}

impl fmt::Display for InterleaveProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNext => f.write_str("and is the last one"),
            Self::Unequal { next } => write!(f, "`{next}`, which is no matrix of the same layout"),
            Self::NextMarked { next } => {
                write!(
                    f,
                    "`{next}`, which itself starts a layer or an interleaved pair"
                )
            }
        }
    }
}

impl fmt::Display for ContainerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, .. } => write!(f, "could not open `{}`", path.display()),
            Self::NotAFile { path } => write!(f, "`{}` is not a regular file", path.display()),
            Self::Exists { path } => {
                write!(f, "`{}` exists; give --force to replace it", path.display())
            }
            Self::WriteFile { path, source } if source.kind() == io::ErrorKind::StorageFull => {
                write!(f, "could not write `{}`: the disk is full", path.display())
            }
            Self::WriteFile { path, .. } => write!(f, "could not write `{}`", path.display()),
            Self::Busy { path } => {
                write!(
                    f,
                    "another process renews the metadata of `{}`",
                    path.display()
                )
            }
            Self::Write(_) => f.write_str("could not write the container"),
            Self::NotAContainer { found } => {
                write!(
                    f,
                    "not a chaski file: starts with `{}`",
                    found.escape_ascii()
                )
            }
            Self::Unfinished => f.write_str(
                "an unfinished file: the program that wrote it was cut short, or is still writing",
            ),
            Self::Version { found } => write!(
                f,
                "format version {found}, this program reads version {FORMAT_VERSION}: convert \
                 the model again or use another release"
            ),
            Self::HeaderChecksum => f.write_str("header: checksum: the header is damaged"),
            Self::Truncated { file_len, needed } => {
                write!(
                    f,
                    "the file is cut short: {file_len} bytes, expected {needed}"
                )
            }
            Self::TrailingBytes { file_len, expected } => {
                write!(
                    f,
                    "bytes after the end: the file has {file_len}, its header says {expected}"
                )
            }
            Self::Field {
                place,
                field,
                found,
                want,
            } => {
                write!(f, "{place}: {field} is {found}, expected {want}")
            }
            Self::UnknownSection { kind } => write!(
                f,
                "a section of unknown kind {kind} that is not marked optional: the file needs a \
                 newer release"
            ),
            Self::DuplicateSection { kind } => write!(f, "two sections of kind {kind}"),
            Self::MissingSection { kind } => write!(f, "there is no {kind} section"),
            Self::SectionChecksum { kind } => {
                write!(f, "{kind} section: checksum: the bytes are damaged")
            }
            Self::NotZero { what, at, found } => {
                write!(
                    f,
                    "{what}: byte {at} of the file is {found:#04x}, expected 0"
                )
            }
            Self::RenewalCutShort { start, end } => write!(
                f,
                "a renewal of the metadata was cut short and left bytes {start}..{end}: the \
                 model can be used, the next renewal repairs the file"
            ),
            Self::Changed => f.write_str("the file was changed while it was open"),
            Self::TensorName { index, problem } => write!(f, "tensor {index}: {problem}"),
            Self::DuplicateTensor { name } => write!(f, "two tensors are named `{name}`"),
            Self::Layout { name, .. } => write!(f, "tensor `{name}`: impossible shape"),
            Self::VectorLen { name, len } => write!(
                f,
                "tensor `{name}`: a vector of {len} elements, expected 1..={}",
                crate::layout::MAX_DIM
            ),
            Self::Interleaved { name, problem } => {
                write!(
                    f,
                    "tensor `{name}`: is interleaved with the next one, {problem}"
                )
            }
            Self::TooManyTensors { n, max } => write!(f, "{n} tensors, expected at most {max}"),
            Self::DataTooLong { name } => {
                write!(f, "tensor `{name}`: ends beyond the longest possible file")
            }
            Self::NotAMatrix { name } => {
                write!(f, "tensor `{name}` is a vector, expected a matrix")
            }
            Self::NotAVector { name, qtype } => {
                write!(f, "tensor `{name}` is a {qtype} matrix, expected a vector")
            }
            Self::TensorChecksum { name } => {
                write!(f, "tensor `{name}`: checksum: the bytes are damaged")
            }
            Self::Tile { name, tile, .. } => {
                write!(
                    f,
                    "tile {tile} of tensor `{}` is not sound",
                    name.escape_debug()
                )
            }
            Self::NotFinite { name, index } => {
                write!(f, "tensor `{name}`: element {index} is not finite")
            }
            Self::MetadataUtf8(_) => f.write_str("metadata section: not UTF-8"),
            Self::MetadataJson(_) => f.write_str("metadata section: not a sound JSON object"),
            Self::MetadataNotLast => f.write_str(
                "the metadata is not the last section of the file and cannot be renewed in place",
            ),
            Self::WrongTensor {
                expected: Some(name),
                got,
            } => {
                write!(
                    f,
                    "bytes of tensor {got} were written, expected those of `{name}`"
                )
            }
            Self::WrongTensor {
                expected: None,
                got,
            } => {
                write!(
                    f,
                    "bytes of tensor {got} were written, and all tensors are complete"
                )
            }
            Self::WrongLength {
                name,
                got,
                unit,
                max,
            } => write!(
                f,
                "{got} bytes of tensor `{name}` were written, expected a multiple of {unit} up \
                 to {max}"
            ),
            Self::Incomplete { name } => write!(f, "tensor `{name}` was not written as a whole"),
            Self::ReservedSection { kind } => {
                write!(
                    f,
                    "a {kind} section is made by the writer and cannot be given"
                )
            }
            Self::TooManySections { n, max } => write!(f, "{n} sections, expected at most {max}"),
        }
    }
}

impl Error for ContainerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::WriteFile { source, .. } | Self::Write(source) => {
                Some(source)
            }
            Self::Layout { source, .. } => Some(source),
            Self::Tile { source, .. } => Some(source),
            Self::MetadataUtf8(source) => Some(source),
            Self::MetadataJson(source) => Some(source),
            _ => None,
        }
    }
}
