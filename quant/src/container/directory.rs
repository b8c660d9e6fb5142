//! The tensor directory: for each tensor what it is, where it lies and its checksum.

use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    error::{ContainerError, NameProblem, Place, Want},
    plan::{DataPlan, MAX_NAME_BYTES, MAX_TENSORS, TensorDecl, TensorKind, check_name},
};
use crate::{QuantType, TILE_ALIGN, TensorLayout};

const HEAD_BYTES: usize = 8;
const FIXED_BYTES: usize = 44;

const KIND_VECTOR: u8 = 0;
const KIND_MATRIX: u8 = 1;
const FLAG_SECTION_START: u16 = 1;
const FLAG_INTERLEAVED: u16 = 2;

/// A tensor of an open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name, unique in the file.
    pub name: String,
    /// What it is.
    pub kind: TensorKind,
    /// Position in bytes from the start of the data.
    pub offset: u64,
    /// Bytes from one tile to the next, twice a tile if two matrices alternate; 0 for a vector.
    pub tile_stride: u64,
    /// XXH3-64 of the tensor's own bytes in order, without what lies between its tiles.
    pub xxh3: u64,
}

// A hostile directory cannot make the table of entries longer than the file: every tensor takes
// at least 64 bytes of data and 45 of the directory.
const _: () = assert!(size_of::<TensorEntry>() <= TILE_ALIGN + FIXED_BYTES + 1);

impl TensorEntry {
    /// Bytes from the tensor's first byte to its last one, with what lies between its tiles.
    pub const fn span(&self) -> usize {
        match &self.kind {
            TensorKind::Matrix(layout) => {
                (layout.n_tiles() - 1) * self.tile_stride as usize + layout.tile_bytes()
            }
            TensorKind::Vector { .. } => self.kind.bytes(),
        }
    }

    /// Whether its tiles alternate with those of a neighbour.
    pub const fn is_interleaved(&self) -> bool {
        match &self.kind {
            TensorKind::Matrix(layout) => self.tile_stride as usize > layout.tile_bytes(),
            TensorKind::Vector { .. } => false,
        }
    }
}

/// Bytes of the directory of these tensors.
pub(super) fn encoded_len(decls: &[TensorDecl]) -> u64 {
    decls.iter().fold(HEAD_BYTES as u64, |n, d| {
        n + (FIXED_BYTES + d.name.len()) as u64
    })
}

/// The directory's bytes.
///
/// * `hashes`: the tensors' checksums.
pub(super) fn encode(plan: &DataPlan, hashes: &[u64]) -> Vec<u8> {
    let mut out = vec![0; HEAD_BYTES];
    LittleEndian::write_u32(&mut out, hashes.len() as u32);
    for (i, (decl, hash)) in plan.decls().iter().zip(hashes).enumerate() {
        let mut e = [0; FIXED_BYTES];
        LittleEndian::write_u64(&mut e[0..], plan.offset(i));
        LittleEndian::write_u64(&mut e[8..], plan.tile_stride(i));
        LittleEndian::write_u64(&mut e[16..], *hash);
        let (kind, qtype, rows, cols, group) = match decl.kind {
            TensorKind::Matrix(l) => (KIND_MATRIX, l.qtype(), l.rows(), l.cols(), l.row_group()),
            TensorKind::Vector { len } => (KIND_VECTOR, QuantType::F32, len, 1, 1),
        };
        LittleEndian::write_u32(&mut e[24..], rows as u32);
        LittleEndian::write_u32(&mut e[28..], cols as u32);
        LittleEndian::write_u32(&mut e[32..], group as u32);
        e[36] = kind;
        e[37] = qtype.id();
        let flags = u16::from(decl.section_start) * FLAG_SECTION_START
            + u16::from(decl.interleaved) * FLAG_INTERLEAVED;
        LittleEndian::write_u16(&mut e[38..], flags);
        LittleEndian::write_u16(&mut e[40..], decl.name.len() as u16);
        out.extend_from_slice(&e);
        out.extend_from_slice(decl.name.as_bytes());
    }
    out
}

/// The checksum that stands for the data in the header: XXH3-64 of the tensors' checksums, in
/// order, as little-endian 64-bit numbers.
pub(super) fn data_hash(hashes: impl Iterator<Item = u64>) -> u64 {
    let mut hash = Xxh3Default::new();
    for h in hashes {
        hash.update(&h.to_le_bytes());
    }
    hash.digest()
}

/// Reads a directory whose tensors fill `data_len` bytes. Also returns the numbers of the tensors
/// in the order of their names.
pub(super) fn decode(
    bytes: &[u8],
    data_len: u64,
) -> Result<(Vec<TensorEntry>, Vec<u32>), ContainerError> {
    let wrong = |field, found, want| {
        Err(ContainerError::Field {
            place: Place::Directory,
            field,
            found: found as u64,
            want,
        })
    };
    if bytes.len() < HEAD_BYTES {
        return wrong(
            "length",
            bytes.len(),
            Want::Within(HEAD_BYTES as u64, u64::MAX),
        );
    }
    let n = LittleEndian::read_u32(bytes) as usize;
    // Each tensor starts at a multiple of 64 of its own and has an entry of its own.
    let max = MAX_TENSORS
        .min((bytes.len() - HEAD_BYTES) / (FIXED_BYTES + 1))
        .min(data_len.div_ceil(TILE_ALIGN as u64) as usize);
    if n > max {
        return wrong("tensor count", n, Want::Within(0, max as u64));
    }
    let reserved = LittleEndian::read_u32(&bytes[4..]);
    if reserved != 0 {
        return wrong("reserved", reserved as usize, Want::Exactly(0));
    }

    let mut decls = Vec::with_capacity(n);
    let mut stored = Vec::with_capacity(n);
    let mut rest = &bytes[HEAD_BYTES..];
    for index in 0..n {
        let (decl, places, after) = decode_entry(rest, index)?;
        decls.push(decl);
        stored.push(places);
        rest = after;
    }
    if !rest.is_empty() {
        let len = bytes.len();
        return wrong("length", len, Want::Exactly((len - rest.len()) as u64));
    }

    let plan = DataPlan::new(decls)?;
    for (index, (offset, tile_stride, _)) in stored.iter().enumerate() {
        for (field, found, want) in [
            ("offset", *offset, plan.offset(index)),
            ("tile stride", *tile_stride, plan.tile_stride(index)),
        ] {
            if found != want {
                let name = Some(plan.decls()[index].name.clone());
                let place = Place::Tensor { index, name };
                return Err(ContainerError::Field {
                    place,
                    field,
                    found,
                    want: Want::Exactly(want),
                });
            }
        }
    }
    if plan.data_len() != data_len {
        return wrong(
            "data length",
            data_len as usize,
            Want::Exactly(plan.data_len()),
        );
    }
    let by_name = plan.by_name();
    let entries = plan
        .into_decls()
        .into_iter()
        .zip(stored)
        .map(|(d, (offset, tile_stride, xxh3))| TensorEntry {
            name: d.name,
            kind: d.kind,
            offset,
            tile_stride,
            xxh3,
        })
        .collect();
    Ok((entries, by_name))
}

type Stored = (u64, u64, u64);

/// The first entry of `bytes`: the tensor, its stored offset, stride and checksum, and the rest.
fn decode_entry(bytes: &[u8], index: usize) -> Result<(TensorDecl, Stored, &[u8]), ContainerError> {
    let field = |name: Option<&str>, field, found, want| {
        let name = name.map(str::to_owned);
        Err(ContainerError::Field {
            place: Place::Tensor { index, name },
            field,
            found,
            want,
        })
    };
    let Some((e, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        let want = Want::Within(FIXED_BYTES as u64 + 1, u64::MAX);
        return field(None, "entry length", bytes.len() as u64, want);
    };
    let name_len = usize::from(LittleEndian::read_u16(&e[40..]));
    let max = rest.len().min(MAX_NAME_BYTES);
    if !(1..=max).contains(&name_len) {
        return field(
            None,
            "name length",
            name_len as u64,
            Want::Within(1, max as u64),
        );
    }
    let (name, rest) = rest.split_at(name_len);
    let name = std::str::from_utf8(name)
        .map_err(NameProblem::Utf8)
        .and_then(|name| check_name(name).map(|()| name))
        .map_err(|problem| ContainerError::TensorName { index, problem })?;
    let at = Some(name);

    let reserved = LittleEndian::read_u16(&e[42..]);
    if reserved != 0 {
        return field(at, "reserved", u64::from(reserved), Want::Exactly(0));
    }
    let flags = LittleEndian::read_u16(&e[38..]);
    if flags & !(FLAG_SECTION_START | FLAG_INTERLEAVED) != 0 {
        return field(at, "flags", u64::from(flags), Want::Within(0, 3));
    }
    let Some(qtype) = QuantType::from_id(e[37]) else {
        let max = QuantType::ALL.len() as u64 - 1;
        return field(at, "quant type", u64::from(e[37]), Want::Within(0, max));
    };
    let [rows, cols, row_group] = [24, 28, 32].map(|i| LittleEndian::read_u32(&e[i..]) as usize);
    let kind = match e[36] {
        KIND_VECTOR => {
            for (what, found, want) in [
                (
                    "quant type",
                    u64::from(qtype.id()),
                    u64::from(QuantType::F32.id()),
                ),
                ("columns", cols as u64, 1),
                ("row group", row_group as u64, 1),
            ] {
                if found != want {
                    return field(at, what, found, Want::Exactly(want));
                }
            }
            TensorKind::Vector { len: rows }
        }
        KIND_MATRIX => {
            let layout = TensorLayout::grouped(qtype, rows, cols, row_group);
            let layout = layout.map_err(|source| ContainerError::Layout {
                name: name.to_owned(),
                source,
            })?;
            TensorKind::Matrix(layout)
        }
        kind => return field(at, "kind", u64::from(kind), Want::Within(0, 1)),
    };
    let decl = TensorDecl {
        name: name.to_owned(),
        kind,
        section_start: flags & FLAG_SECTION_START != 0,
        interleaved: flags & FLAG_INTERLEAVED != 0,
    };
    let stored = [0, 8, 16].map(|i| LittleEndian::read_u64(&e[i..]));
    Ok((decl, stored.into(), rest))
}
