//! A GGUF writer that writes what it is told, right or wrong.
#![allow(dead_code, unreachable_pub, reason = "each user uses a part")]

/// Ids of value types.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const TEXT: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// A value with the id of its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// Any bytes as a value of any type.
pub fn raw(kind: u32, bytes: &[u8]) -> Value {
    let bytes = bytes.to_vec();
    Value { kind, bytes }
}

pub fn uint(x: u32) -> Value {
    raw(U32, &x.to_le_bytes())
}

pub fn long(x: u64) -> Value {
    raw(U64, &x.to_le_bytes())
}

pub fn int(x: i32) -> Value {
    raw(I32, &x.to_le_bytes())
}

pub fn float(x: f32) -> Value {
    raw(F32, &x.to_le_bytes())
}

pub fn boolean(x: bool) -> Value {
    raw(BOOL, &[x.into()])
}

pub fn text(s: impl AsRef<[u8]>) -> Value {
    raw(TEXT, &counted(s.as_ref()))
}

/// An array of `n` elements, which `bytes` may hold or not.
pub fn array(kind: u32, n: u64, bytes: &[u8]) -> Value {
    let mut all = kind.to_le_bytes().to_vec();
    all.extend(n.to_le_bytes());
    all.extend(bytes);
    raw(ARRAY, &all)
}

pub fn texts<S: AsRef<[u8]>>(all: &[S]) -> Value {
    let bytes: Vec<u8> = all.iter().flat_map(|s| counted(s.as_ref())).collect();
    array(TEXT, all.len() as u64, &bytes)
}

pub fn ints(all: &[i32]) -> Value {
    let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
    array(I32, all.len() as u64, &bytes)
}

pub fn floats(all: &[f32]) -> Value {
    let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
    array(F32, all.len() as u64, &bytes)
}

/// `bytes` with their length before them.
pub fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut all = (bytes.len() as u64).to_le_bytes().to_vec();
    all.extend(bytes);
    all
}

/// An entry of the table, and the data that it stands for.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Vec<u8>,
    /// What the file says of their number, if that is not how many there are.
    pub n_dims: Option<u32>,
    /// Columns first.
    pub dims: Vec<u64>,
    pub type_id: u32,
    /// Where the file says that the data lies, if not where it does.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn new(name: &str, dims: &[u64], type_id: u32, data: Vec<u8>) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            n_dims: None,
            dims: dims.to_vec(),
            type_id,
            offset: None,
            data,
        }
    }
}

/// A file.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub magic: [u8; 4],
    pub version: u32,
    /// What the file says of their number, if that is not how many there are.
    pub n_tensors: Option<u64>,
    pub n_keys: Option<u64>,
    pub keys: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Tensor>,
    /// Where data may start. The key that says so is a key like any other.
    pub alignment: usize,
}

impl Gguf {
    pub fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// Puts `value` in the place of what `key` has, or at the end.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.keys.iter_mut().find(|(k, _)| k == key.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.as_bytes().to_vec(), value)),
        }
    }

    /// Takes `key` out, which is there.
    pub fn remove(&mut self, key: &str) {
        let n = self.keys.len();
        self.keys.retain(|(k, _)| k != key.as_bytes());
        assert_eq!(self.keys.len() + 1, n, "{key}");
    }

    /// The tensor of this name.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut();
        found
            .into_iter()
            .find(|t| t.name == name.as_bytes())
            .unwrap()
    }

    /// Everything before the data and what aligns it.
    pub fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        let count = |told: Option<u64>, there: usize| told.unwrap_or(there as u64).to_le_bytes();
        out.extend(count(self.n_tensors, self.tensors.len()));
        out.extend(count(self.n_keys, self.keys.len()));
        for (key, value) in &self.keys {
            out.extend(counted(key));
            out.extend(value.kind.to_le_bytes());
            out.extend(&value.bytes);
        }
        let mut end = 0;
        for t in &self.tensors {
            out.extend(counted(&t.name));
            out.extend(t.n_dims.unwrap_or(t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.type_id.to_le_bytes());
            out.extend(t.offset.unwrap_or(end as u64).to_le_bytes());
            end = (end + t.data.len()).next_multiple_of(self.alignment);
        }
        out
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&t.data);
        }
        out
    }
}
