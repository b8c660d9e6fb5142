//! The header of a safetensors file, read without the file.
//!
//! ```text
//! 8 bytes      n, the header's length, little-endian
//! n bytes      JSON: { "__metadata__": {text: text}?, name: { "dtype", "shape", "data_offsets": [begin, end] }* }
//! the rest     the tensors' bytes, offsets counted from here
//! ```
//!
//! The `safetensors` crate checks a header only against a buffer of the whole file, which would
//! mean a map or a copy of it; these checks are the same ones (no holes, no overlaps, nothing left
//! over, sizes that do not overflow) and two more: names that occur twice and fields that are not
//! known are errors.

use std::{collections::BTreeMap, error::Error, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::HfError;
use crate::source::{ReadAt, SourceError};

/// The longest header that is read, the limit of the reference implementation.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// Most tensors of a file; Llama 3.1 405B has 1,138 in all of its files.
const MAX_TENSORS: usize = 1 << 17;

/// What is wrong with the header of a safetensors file.
#[derive(Debug)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file is shorter than 8 bytes.
    TooShort {
        /// The file's length.
        file_len: u64,
    },
    /// The header's length is beyond the limit or beyond the file.
    Length {
        /// What the file says.
        header_len: u64,
        /// The file's length.
        file_len: u64,
    },
    /// The header is no JSON object of the expected form.
    Json(serde_json::Error),
    /// A shape and an element type give more bytes than can be counted.
    Overflow {
        /// The tensor.
        tensor: String,
    },
    /// A tensor's byte range and its shape disagree.
    Size {
        /// The tensor.
        tensor: String,
        /// Begin and end as the header says.
        offsets: [u64; 2],
        /// Bytes by shape and element type.
        bytes: u64,
    },
    /// A tensor does not start where the one before it ends.
    NotContiguous {
        /// The tensor.
        tensor: String,
        /// Where it starts.
        begin: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// The tensors end before or after the file does.
    DataLength {
        /// Bytes by the header.
        expected: u64,
        /// Bytes behind the header.
        got: u64,
    },
    /// A name of an element type that is not known.
    UnknownDType {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: String,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { file_len } => {
                write!(
                    f,
                    "the file has {file_len} bytes, too few for the length of a header"
                )
            }
            Self::Length {
                header_len,
                file_len,
            } => write!(
                f,
                "the header's length is {header_len} bytes in a file of {file_len} (at most {MAX_HEADER} are read)"
            ),
            Self::Json(_) => f.write_str("the header is not as the format wants it"),
            Self::Overflow { tensor } => {
                write!(
                    f,
                    "the shape of tensor `{}` overflows",
                    tensor.escape_debug()
                )
            }
            Self::Size {
                tensor,
                offsets: [begin, end],
                bytes,
            } => write!(
                f,
                "tensor `{}` lies at {begin}..{end}, its shape and element type take {bytes} bytes",
                tensor.escape_debug()
            ),
            Self::NotContiguous {
                tensor,
                begin,
                expected,
            } => write!(
                f,
                "tensor `{}` starts at {begin}, the one before it ends at {expected}",
                tensor.escape_debug()
            ),
            Self::DataLength { expected, got } => {
                write!(
                    f,
                    "the header describes {expected} bytes of tensors, the file has {got}"
                )
            }
            Self::UnknownDType { tensor, dtype } => write!(
                f,
                "tensor `{}` has the unknown element type \"{}\"",
                tensor.escape_debug(),
                dtype.escape_debug()
            ),
        }
    }
}

impl Error for HeaderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(cause) => Some(cause),
            _ => None,
        }
    }
}

/// A tensor of the file, its range checked.
#[derive(Debug)]
pub(super) struct HeaderTensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    /// Where its bytes start, counted from the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The object that a header is, in the order written, names that occur twice refused.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut seen = std::collections::BTreeSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!(
                            "the name `{}` occurs twice",
                            name.escape_debug()
                        )));
                    }
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        continue;
                    }
                    if entries.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format_args!(
                            "more than {MAX_TENSORS} tensors"
                        )));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(Object)
    }
}

/// Bits of one element, by the names that the format knows.
fn dtype_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Reads and checks the header; the tensors come in the order of their bytes.
pub(super) fn read(file: &ReadAt) -> Result<Vec<HeaderTensor>, SourceError> {
    let error = |cause| HfError::Header {
        path: file.path().to_owned(),
        cause,
    };
    let file_len = file.len();
    if file_len < 8 {
        return Err(error(HeaderError::TooShort { file_len }).into());
    }
    let mut bytes = Vec::new();
    file.append(0, 8, &mut bytes)?;
    let header_len = bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    if header_len > MAX_HEADER || header_len > file_len - 8 {
        return Err(error(HeaderError::Length {
            header_len,
            file_len,
        })
        .into());
    }
    bytes.clear();
    file.append(8, header_len as usize, &mut bytes)?;
    parse(&bytes, file_len - 8 - header_len).map_err(|cause| error(cause).into())
}

/// Checks the JSON `header` of a file with `data_len` bytes behind it.
fn parse(header: &[u8], data_len: u64) -> Result<Vec<HeaderTensor>, HeaderError> {
    let Entries(mut entries) = serde_json::from_slice(header).map_err(HeaderError::Json)?;
    entries.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    let data_start = 8 + header.len() as u64;
    let mut at = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (
        name,
        Entry {
            dtype,
            shape,
            data_offsets: [begin, end],
        },
    ) in entries
    {
        let Some(bits) = dtype_bits(&dtype) else {
            return Err(HeaderError::UnknownDType {
                tensor: name,
                dtype,
            });
        };
        let Some(bits) = shape.iter().try_fold(bits, |n, &d| n.checked_mul(d)) else {
            return Err(HeaderError::Overflow { tensor: name });
        };
        let bytes = bits.div_ceil(8);
        if bits % 8 != 0 || begin.checked_add(bytes) != Some(end) {
            return Err(HeaderError::Size {
                tensor: name,
                offsets: [begin, end],
                bytes,
            });
        }
        if begin != at {
            return Err(HeaderError::NotContiguous {
                tensor: name,
                begin,
                expected: at,
            });
        }
        at = end;
        // An end beyond the file is found below, before any offset is used.
        let offset = data_start.saturating_add(begin);
        tensors.push(HeaderTensor {
            name,
            dtype,
            shape,
            offset,
            bytes,
        });
    }
    if at != data_len {
        return Err(HeaderError::DataLength {
            expected: at,
            got: data_len,
        });
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(header: &str, data_len: u64) -> String {
        let err = parse(header.as_bytes(), data_len).unwrap_err();
        match err.source() {
            Some(cause) => format!("{err}: {cause}"),
            None => err.to_string(),
        }
    }

    #[test]
    fn tensors_come_in_the_order_of_their_bytes() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F16","shape":[2,3],"data_offsets":[8,20]},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "z":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}}"#;
        let tensors = parse(header.as_bytes(), 20).unwrap();
        let got: Vec<_> = tensors
            .iter()
            .map(|t| (&*t.name, t.offset, t.bytes))
            .collect();
        let start = 8 + header.len() as u64;
        assert_eq!(
            got,
            [("a", start, 8), ("z", start + 8, 0), ("b", start + 8, 12)]
        );
    }

    #[test]
    fn hostile_headers_are_named() {
        struct Case {
            header: &'static str,
            data_len: u64,
            says: &'static str,
        }
        let cases = [
            Case {
                header: "",
                data_len: 0,
                says: "EOF",
            },
            Case {
                header: "[]",
                data_len: 0,
                says: "an object of tensors",
            },
            Case {
                header: "{} x",
                data_len: 0,
                says: "trailing",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                            "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                data_len: 8,
                says: "`a` occurs twice",
            },
            Case {
                header: r#"{"__metadata__":{},"__metadata__":{}}"#,
                data_len: 0,
                says: "occurs twice",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#,
                data_len: 4,
                says: "duplicate field",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#,
                data_len: 4,
                says: "unknown field",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
                data_len: 4,
                says: "invalid value",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                            "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                data_len: 12,
                says: "`b` starts at 4, the one before it ends at 8",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                data_len: 8,
                says: "`a` starts at 4, the one before it ends at 0",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
                data_len: 4,
                says: "take 8 bytes",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#,
                data_len: 8,
                says: "8..4",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
                data_len: 4,
                says: "overflows",
            },
            Case {
                header: r#"{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}"#,
                data_len: 1,
                says: "`a` lies at 0..1",
            },
            Case {
                header: r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[1,0]}}"#,
                data_len: 4,
                says: "overflows",
            },
            Case {
                header: r#"{"a":{"dtype":"U8","shape":[9],"data_offsets":[18446744073709551615,8]}}"#,
                data_len: 8,
                says: "18446744073709551615..8",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
                data_len: 7,
                says: "8 bytes of tensors, the file has 7",
            },
            Case {
                header: r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
                data_len: 9,
                says: "the file has 9",
            },
            Case {
                header: r#"{"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}}"#,
                data_len: 8,
                says: "\"Q9\"",
            },
        ];
        for Case {
            header,
            data_len,
            says,
        } in cases
        {
            let got = error(header, data_len);
            assert!(got.contains(says), "{header}: {got}");
        }
    }

    #[test]
    fn every_truncation_of_a_file_is_an_error() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let mut whole = (header.len() as u64).to_le_bytes().to_vec();
        whole.extend(header.as_bytes());
        whole.extend([0; 8]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        for len in 0..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let got = read(&ReadAt::open(&path).unwrap());
            assert_eq!(got.is_ok(), len == whole.len(), "{len} bytes: {got:?}");
        }
        for header_len in [u64::MAX, MAX_HEADER + 1, whole.len() as u64 - 7, 1 << 63] {
            whole[..8].copy_from_slice(&header_len.to_le_bytes());
            std::fs::write(&path, &whole).unwrap();
            let err = read(&ReadAt::open(&path).unwrap()).unwrap_err();
            let SourceError::Hf(HfError::Header { cause, .. }) = err else {
                panic!("{err}")
            };
            assert!(
                matches!(cause, HeaderError::Length { .. }),
                "{header_len}: {cause}"
            );
        }
    }
}
