//! The header of a GGUF file: metadata and the table of tensors, checked whole.

use std::collections::HashSet;

use super::{
    cursor::Cursor,
    error::{GgufError, Shown},
    metadata::Metadata,
};
use crate::{
    dequant::GgmlType,
    source::{ReadAt, SourceError},
};

/// Llama-3.1-405B has 1137 tensors.
const MAX_TENSORS: u64 = 1 << 16;
/// ggml's own limit is 63.
const MAX_NAME_BYTES: u64 = 1 << 10;
/// What the format takes where the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Nobody asks for more than a page of any system.
const MAX_ALIGNMENT: u64 = 1 << 20;

const ALIGNMENT: &str = "general.alignment";

/// A tensor that lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeaderTensor {
    pub(super) name: String,
    pub(super) dtype: GgmlType,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// It was stored with one dimension.
    pub(super) vector: bool,
    /// Where its data starts in the file.
    pub(super) offset: u64,
    /// Of all rows.
    pub(super) bytes: u64,
}

/// Reads and checks the header of `file`; tensors come in the order of their bytes.
pub(super) fn read(file: &ReadAt) -> Result<(Metadata, Vec<HeaderTensor>), SourceError> {
    let mut cursor = Cursor::new(file);
    let magic = cursor.array(&"the magic number")?;
    if &magic != b"GGUF" {
        return Err(cursor.error(GgufError::NotGguf { starts_with: magic }));
    }
    match cursor.u32(&"the version")? {
        2 | 3 => {}
        // The version of a big-endian file, read with its bytes in the wrong order.
        version if matches!(version.swap_bytes(), 1..=0xffff) => {
            return Err(cursor.error(GgufError::BigEndian));
        }
        version => return Err(cursor.error(GgufError::Version { version })),
    }
    let n_tensors = cursor.u64(&"the number of tensors")?;
    let n_keys = cursor.u64(&"the number of keys")?;
    if n_tensors > MAX_TENSORS {
        let (what, n, max) = ("tensors", n_tensors, MAX_TENSORS);
        return Err(cursor.error(GgufError::TooMany { what, n, max }));
    }
    let metadata = Metadata::read(&mut cursor, n_keys)?;
    let alignment = alignment(&metadata).map_err(|cause| cursor.error(cause))?;

    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for index in 0..n_tensors {
        let tensor = read_tensor(&mut cursor, index, alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(cursor.error(GgufError::DuplicateTensor {
                tensor: tensor.name,
            }));
        }
        tensors.push(tensor);
    }
    place(
        &mut tensors,
        cursor.position().next_multiple_of(alignment),
        file.len(),
    )
    .map_err(|cause| cursor.error(cause))?;
    Ok((metadata, tensors))
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = metadata.uint(ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        return Ok(alignment);
    }
    let expected = format_args!("a power of two up to {MAX_ALIGNMENT}");
    Err(GgufError::value(ALIGNMENT, expected, alignment))
}

/// Reads an entry of the table; its offset counts from the start of the data.
fn read_tensor(
    cursor: &mut Cursor<'_>,
    index: u64,
    alignment: u64,
) -> Result<HeaderTensor, SourceError> {
    let what = format!("the name of tensor {index}");
    let name = cursor.text(MAX_NAME_BYTES, &what)?;
    if name.is_empty() {
        return Err(cursor.error(GgufError::NoName { what }));
    }
    let what = &format_args!("the description of tensor `{}`", Shown(&name));
    let n_dims = cursor.u32(what)?;
    if !(1..=4).contains(&n_dims) {
        return Err(cursor.error(GgufError::Rank {
            tensor: name,
            n_dims,
        }));
    }
    let mut dims = Vec::with_capacity(4);
    for _ in 0..n_dims {
        dims.push(cursor.u64(what)?);
    }
    let type_id = cursor.u32(what)?;
    let offset = cursor.u64(what)?;

    let shape = |dims: &[u64], expected| GgufError::Shape {
        tensor: name.clone(),
        dims: dims.to_vec(),
        expected,
    };
    // ggml drops dimensions of 1 at the end; another writer may not.
    let used = 2 + dims
        .iter()
        .skip(2)
        .rposition(|&d| d != 1)
        .map_or(0, |i| i + 1);
    let (rows, cols, vector) = match dims[..used.min(dims.len())] {
        [cols] => (1, cols, true),
        [cols, rows] => (rows, cols, false),
        _ => return Err(cursor.error(shape(&dims, "a vector or a matrix"))),
    };
    if rows == 0 || cols == 0 {
        return Err(cursor.error(shape(&dims, "dimensions that are not 0")));
    }
    let dtype = match GgmlType::from_id(type_id) {
        Ok(dtype) => dtype,
        Err(cause) => {
            return Err(cursor.error(GgufError::TensorType {
                tensor: name,
                cause,
            }));
        }
    };
    let too_large = "no more bytes than a file can have";
    let (Ok(rows), Ok(n_cols)) = (usize::try_from(rows), usize::try_from(cols)) else {
        return Err(cursor.error(shape(&dims, too_large)));
    };
    if !n_cols.is_multiple_of(dtype.block_len()) {
        let (block_len, dtype) = (dtype.block_len(), dtype.name());
        let tensor = name;
        return Err(cursor.error(GgufError::RaggedRows {
            tensor,
            cols,
            dtype,
            block_len,
        }));
    }
    // The weights themselves are counted in `usize`, too.
    let bytes = dtype
        .row_bytes(n_cols)
        .and_then(|row| row.checked_mul(rows));
    let (Some(bytes), Some(_)) = (bytes, n_cols.checked_mul(rows)) else {
        return Err(cursor.error(shape(&dims, too_large)));
    };
    if !offset.is_multiple_of(alignment) {
        return Err(cursor.error(GgufError::Misaligned {
            tensor: name,
            offset,
            alignment,
        }));
    }
    let bytes = bytes as u64;
    Ok(HeaderTensor {
        name,
        dtype,
        rows,
        cols: n_cols,
        vector,
        offset,
        bytes,
    })
}

/// Sorts the tensors by offset, makes the offsets count from the start of the file, and checks that they lie in it
/// and apart.
fn place(tensors: &mut [HeaderTensor], data: u64, file_len: u64) -> Result<(), GgufError> {
    tensors.sort_by_key(|t| t.offset);
    let data_len = file_len.saturating_sub(data);
    for t in tensors.iter() {
        if t.offset
            .checked_add(t.bytes)
            .is_none_or(|end| end > data_len)
        {
            let (tensor, offset, bytes) = (t.name.clone(), t.offset, t.bytes);
            return Err(GgufError::OutOfFile {
                tensor,
                offset,
                bytes,
                data_len,
            });
        }
    }
    for pair in tensors.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            return Err(GgufError::Overlap { first, second });
        }
    }
    for t in tensors {
        t.offset += data;
    }
    Ok(())
}
