//! The key-value pairs of a GGUF file.

use std::{collections::BTreeMap, fmt};

use super::{
    cursor::Cursor,
    error::{GgufError, Shown},
};
use crate::source::SourceError;

/// Models have about 40; an importance matrix or a list of licences adds some.
const MAX_KEYS: u64 = 1 << 16;
/// The format's own limit.
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
/// Vocabularies of 262,144 tokens with their merges have 20 MB.
const MAX_METADATA_BYTES: u64 = 256 << 20;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Uint(u64),
    Int(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

/// An array, as compact as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Array {
    Texts(Texts),
    Numbers { kind: Kind, raw: Vec<u8> },
}

/// Many texts in one: an array of 150,000 short texts takes about the bytes that it has in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Texts {
    joined: Vec<u8>,
    ends: Vec<u32>,
}

/// Element types of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of [`bytes`](Self::bytes) little-endian bytes; `None` for a Boolean that is neither 0 nor 1.
    fn value(self, raw: &[u8]) -> Option<Value> {
        let mut b = [0; 8];
        b[..raw.len()].copy_from_slice(raw);
        let all = u64::from_le_bytes(b);
        Some(match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Uint(all),
            Self::I8 => Value::Int((all as i8).into()),
            Self::I16 => Value::Int((all as i16).into()),
            Self::I32 => Value::Int((all as i32).into()),
            Self::I64 => Value::Int(all as i64),
            Self::F32 => Value::F32(f32::from_bits(all as u32)),
            Self::F64 => Value::F64(f64::from_bits(all)),
            Self::Bool if all <= 1 => Value::Bool(all == 1),
            Self::Bool => return None,
        })
    }
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text at `index`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(super) fn get(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let bytes = &self.joined[start as usize..self.ends[index] as usize];
        // Each text was checked when it was read.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }
}

impl Array {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Numbers { kind, raw } => raw.len() / kind.bytes(),
        }
    }

    /// The value at `index`.
    fn get(&self, index: usize) -> Value {
        match self {
            Self::Texts(texts) => Value::Text(texts.get(index).to_owned()),
            Self::Numbers { kind, raw } => {
                let raw = &raw[index * kind.bytes()..][..kind.bytes()];
                // Booleans were checked when they were read.
                kind.value(raw).unwrap_or(Value::Bool(false))
            }
        }
    }
}

impl Value {
    pub(super) fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Uint(x) => Some(x),
            Self::Int(x) => u64::try_from(x).ok(),
            _ => None,
        }
    }

    pub(super) fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Uint(x) => i64::try_from(x).ok(),
            Self::Int(x) => Some(x),
            _ => None,
        }
    }

    /// A number of any type; an f32 keeps its value.
    pub(super) fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Uint(x) => Some(x as f64),
            Self::Int(x) => Some(x as f64),
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uint(x) => x.fmt(f),
            Self::Int(x) => x.fmt(f),
            Self::F32(x) => x.fmt(f),
            Self::F64(x) => x.fmt(f),
            Self::Bool(x) => x.fmt(f),
            Self::Text(x) => write!(f, "\"{}\"", Shown(x)),
            Self::Array(array) => write!(f, "an array of {}", array.len()),
        }
    }
}

/// All pairs of a file by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metadata {
    pairs: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `n` pairs.
    pub(super) fn read(cursor: &mut Cursor<'_>, n: u64) -> Result<Self, SourceError> {
        if n > MAX_KEYS {
            return Err(cursor.error(GgufError::TooMany {
                what: "keys",
                n,
                max: MAX_KEYS,
            }));
        }
        let mut pairs = BTreeMap::new();
        for index in 0..n {
            let key = cursor.text(MAX_KEY_BYTES, &format_args!("key {index}"))?;
            if key.is_empty() {
                return Err(cursor.error(GgufError::NoName {
                    what: format!("key {index}"),
                }));
            }
            let value = read_value(cursor, &key)?;
            if pairs.contains_key(&key) {
                return Err(cursor.error(GgufError::DuplicateKey { key }));
            }
            pairs.insert(key, value);
        }
        Ok(Self { pairs })
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.get(key)
    }

    /// The keys in alphabetical order, with their values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (&**key, value))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        get(value)
            .map(Some)
            .ok_or_else(|| GgufError::value(key, expected, value))
    }

    pub(super) fn uint(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number that is not negative", Value::as_u64)
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let expected = "a whole number that is not negative";
        self.typed(key, expected, |v| {
            v.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    /// A finite number.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a finite number", |v| {
            v.as_f64().filter(|x| x.is_finite())
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |v| {
            if let Value::Bool(x) = v {
                Some(*x)
            } else {
                None
            }
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a text", |v| {
            if let Value::Text(x) = v {
                Some(&**x)
            } else {
                None
            }
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&Texts>, GgufError> {
        self.typed(key, "an array of texts", |v| match v {
            Value::Array(Array::Texts(texts)) => Some(texts),
            _ => None,
        })
    }

    /// An array of numbers, each by `get`.
    pub(super) fn numbers<T>(
        &self,
        key: &str,
        expected: &str,
        get: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        let is_array = |v| match v {
            &Value::Array(ref array @ Array::Numbers { .. }) => Some(array),
            _ => None,
        };
        let Some(array) = self.typed(key, expected, is_array)? else {
            return Ok(None);
        };
        let element = |i| {
            let value = array.get(i);
            get(&value).ok_or_else(|| GgufError::value(format!("{key}[{i}]"), expected, value))
        };
        (0..array.len())
            .map(element)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// What stands at `key`: one number, or an array of them that are all equal, as files have it where a model
    /// could differ from layer to layer.
    pub(super) fn uniform_size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let Some(Value::Array(array)) = self.get(key) else {
            return self.size(key);
        };
        let expected = "one whole number, the same for every layer";
        let all = self.numbers(key, expected, |v| usize::try_from(v.as_u64()?).ok())?;
        let all = all.unwrap_or_default();
        match all.split_first() {
            Some((first, rest)) if rest.iter().all(|x| x == first) => Ok(Some(*first)),
            Some((first, rest)) => {
                let other = rest.iter().find(|&x| x != first).unwrap_or(first);
                Err(GgufError::Unsupported {
                    key: key.to_owned(),
                    expected: expected.to_owned(),
                    got: format!("an array with {first} and {other}"),
                    hint: "layers of different shapes are not implemented",
                })
            }
            None => Err(GgufError::value(
                key,
                expected,
                format_args!("an array of {}", array.len()),
            )),
        }
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, SourceError> {
    let what = &format_args!("the value of key `{}`", Shown(key));
    let id = cursor.u32(what)?;
    let value = match id {
        STRING => Value::Text(cursor.text(MAX_METADATA_BYTES, what)?),
        ARRAY => Value::Array(read_array(cursor, key, what)?),
        id => {
            let kind = kind(cursor, key, id)?;
            let mut raw = Vec::with_capacity(8);
            cursor.append(kind.bytes() as u64, &mut raw, what)?;
            match kind.value(&raw) {
                Some(value) => value,
                None => return Err(not_bool(cursor, key, raw[0])),
            }
        }
    };
    let len = cursor.position();
    if len > MAX_METADATA_BYTES {
        let what = format!("the metadata up to key `{}`", Shown(key));
        return Err(cursor.error(GgufError::TooLong {
            what,
            len,
            max: MAX_METADATA_BYTES,
        }));
    }
    Ok(value)
}

fn kind(cursor: &Cursor<'_>, key: &str, id: u32) -> Result<Kind, SourceError> {
    Kind::from_id(id).ok_or_else(|| {
        cursor.error(GgufError::ValueType {
            key: key.to_owned(),
            id,
        })
    })
}

fn not_bool(cursor: &Cursor<'_>, key: &str, byte: u8) -> SourceError {
    cursor.error(GgufError::value(key, "true (1) or false (0)", byte))
}

fn read_array(
    cursor: &mut Cursor<'_>,
    key: &str,
    what: &dyn fmt::Display,
) -> Result<Array, SourceError> {
    let id = cursor.u32(what)?;
    let n = cursor.u64(what)?;
    if id == ARRAY {
        return Err(cursor.error(GgufError::NestedArray {
            key: key.to_owned(),
        }));
    }
    let too_long = |len| GgufError::TooLong {
        what: what.to_string(),
        len,
        max: MAX_METADATA_BYTES,
    };
    if id != STRING {
        let kind = kind(cursor, key, id)?;
        let len = n.saturating_mul(kind.bytes() as u64);
        cursor.expect(len, what)?;
        if len > MAX_METADATA_BYTES {
            return Err(cursor.error(too_long(len)));
        }
        let mut raw = Vec::new();
        cursor.append(len, &mut raw, what)?;
        if kind == Kind::Bool
            && let Some(&byte) = raw.iter().find(|&&b| b > 1)
        {
            return Err(not_bool(cursor, key, byte));
        }
        return Ok(Array::Numbers { kind, raw });
    }
    // Each text takes 8 bytes for its length.
    let least = n.saturating_mul(8);
    cursor.expect(least, what)?;
    if least > MAX_METADATA_BYTES {
        return Err(cursor.error(too_long(least)));
    }
    let mut texts = Texts {
        joined: Vec::new(),
        ends: Vec::with_capacity(n as usize),
    };
    for i in 0..n {
        let what = &format_args!("text {i} of key `{}`", Shown(key));
        let len = cursor.u64(what)?;
        cursor.expect(len, what)?;
        let start = texts.joined.len();
        if start as u64 + len > MAX_METADATA_BYTES {
            return Err(cursor.error(too_long(start as u64 + len)));
        }
        cursor.append(len, &mut texts.joined, what)?;
        if std::str::from_utf8(&texts.joined[start..]).is_err() {
            return Err(cursor.error(GgufError::NotUtf8 {
                what: what.to_string(),
            }));
        }
        texts.ends.push(texts.joined.len() as u32);
    }
    Ok(Array::Texts(texts))
}
