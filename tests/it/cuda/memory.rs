//! Memory of the devices of tests: by definition, every access must lie within one allocation.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
};

use chaski::backend::cuda::device::Buffer;

use super::emulated::{Library, Region};

/// From one allocation to the next, beside its length: an access that runs over hits nothing.
const GAP: u64 = 1 << 20;

/// An allocation's bytes.
#[derive(Debug)]
enum Bytes {
    /// At an address that is none of this process.
    Elsewhere(Vec<u8>),
    /// Where their address says: kernels can be run over them.
    Here(Region),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Elsewhere(bytes) => bytes,
            Self::Here(region) => region,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Elsewhere(bytes) => bytes,
            Self::Here(region) => region,
        }
    }
}

/// Bytes by address.
#[derive(Debug)]
pub(super) struct Memory {
    allocations: BTreeMap<u64, Bytes>,
    next: u64,
    library: Option<&'static Library>,
    /// Bytes that may be allocated.
    pub(super) free: usize,
}

/// An access outside of all allocations.
#[derive(Debug)]
pub(super) struct Illegal {
    address: u64,
    len: usize,
}

impl std::fmt::Display for Illegal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "illegal access: {} bytes at {:#x}",
            self.len, self.address
        )
    }
}

/// Gives an allocation back.
struct Owner {
    memory: Arc<Mutex<Memory>>,
    address: u64,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut memory = lock(&self.memory);
        if let Some(bytes) = memory.allocations.remove(&self.address) {
            memory.free += bytes.len();
        }
    }
}

pub(super) fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap()
}

/// A new allocation, if there is room.
pub(super) fn alloc(memory: &Arc<Mutex<Memory>>, bytes: usize) -> Option<Buffer> {
    let mut locked = lock(memory);
    let free = locked.free.checked_sub(bytes)?;
    // Not numbers, so that what was never written cannot go unnoticed.
    let (address, allocation) = match locked.library {
        Some(library) => {
            let region = library.alloc(bytes)?;
            (region.address(), Bytes::Here(region))
        }
        None => (locked.next, Bytes::Elsewhere(vec![0xff; bytes])),
    };
    locked.free = free;
    locked.next = (address + bytes as u64 + GAP).next_multiple_of(256);
    locked.allocations.insert(address, allocation);
    let owner = Owner {
        memory: Arc::clone(memory),
        address,
    };
    Some(Buffer::new(address, bytes, Arc::new(owner)))
}

impl Memory {
    pub(super) fn new(free: usize) -> Self {
        Self {
            allocations: BTreeMap::new(),
            // As large as an address is: no size looks like one.
            next: 1 << 46,
            library: None,
            free,
        }
    }

    /// Memory that kernels can be run over.
    pub(super) fn emulated(free: usize, library: &'static Library) -> Self {
        Self {
            library: Some(library),
            ..Self::new(free)
        }
    }

    fn find(&self, address: u64, len: usize) -> Result<(u64, usize), Illegal> {
        let illegal = Illegal { address, len };
        let Some((&start, bytes)) = self.allocations.range(..=address).next_back() else {
            return Err(illegal);
        };
        let offset = (address - start) as usize;
        match offset.checked_add(len) {
            Some(end) if end <= bytes.len() => Ok((start, offset)),
            _ => Err(illegal),
        }
    }

    pub(super) fn bytes(&self, address: u64, len: usize) -> Result<&[u8], Illegal> {
        let (start, offset) = self.find(address, len)?;
        Ok(&self.allocations[&start][offset..offset + len])
    }

    pub(super) fn bytes_mut(&mut self, address: u64, len: usize) -> Result<&mut [u8], Illegal> {
        let (start, offset) = self.find(address, len)?;
        let bytes = self.allocations.get_mut(&start).unwrap();
        Ok(&mut bytes[offset..offset + len])
    }

    pub(super) fn words(&self, address: u64, n: usize) -> Result<Vec<u32>, Illegal> {
        let (words, _) = self.bytes(address, 4 * n)?.as_chunks();
        Ok(words.iter().map(|w| u32::from_le_bytes(*w)).collect())
    }

    pub(super) fn floats(&self, address: u64, n: usize) -> Result<Vec<f32>, Illegal> {
        let words = self.words(address, n)?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    pub(super) fn put(&mut self, address: u64, floats: &[f32]) -> Result<(), Illegal> {
        let to = self.bytes_mut(address, 4 * floats.len())?;
        for (to, x) in to.as_chunks_mut().0.iter_mut().zip(floats) {
            *to = x.to_le_bytes();
        }
        Ok(())
    }
}
