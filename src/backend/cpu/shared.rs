//! Buffers that all workers of a team see, each part with one writer at a time.
//!
//! This is the one place of the CPU backend with `unsafe` code. A [`Shared`] buffer is written in
//! phases: between two barriers every element is either written by one worker and touched by no
//! other, or only read. Which worker owns which part follows from its share of the phase's units;
//! see the caller of each method.
#![allow(unsafe_code)]

use std::{cell::UnsafeCell, ops::Range};

/// A fixed number of plain values behind interior mutability.
#[derive(Debug)]
pub struct Shared<T> {
    cells: Box<[UnsafeCell<T>]>,
}

// SAFETY: the methods that hand out references are unsafe, and their callers promise that no
// element is written by one thread while another one touches it; `T: Send + Sync` covers the values.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T: Copy + Default> Shared<T> {
    /// `len` default values. For numbers the pages come from the system as zeros when first touched.
    pub fn new(len: usize) -> Self {
        let values = vec![T::default(); len].into_boxed_slice();
        let cells = Box::into_raw(values) as *mut [UnsafeCell<T>];
        // SAFETY: `UnsafeCell<T>` has the representation of `T`, so the slice keeps its layout; the
        // pointer came from `Box::into_raw` just now.
        let cells = unsafe { Box::from_raw(cells) };
        Self { cells }
    }

    /// Number of values.
    pub const fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The values `range`, to be read.
    ///
    /// # Safety
    ///
    /// * No thread writes any of them while the result lives.
    ///
    /// # Panics
    ///
    /// If the range leaves the buffer.
    pub unsafe fn read(&self, range: Range<usize>) -> &[T] {
        let cells = &self.cells[range];
        // SAFETY: same layout as above; the caller promises that nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<T>(), cells.len()) }
    }

    /// The values `range`, to be written.
    ///
    /// # Safety
    ///
    /// * No other thread touches any of them while the result lives, and this thread has no other
    ///   reference to them.
    ///
    /// # Panics
    ///
    /// If the range leaves the buffer.
    #[expect(clippy::mut_from_ref, reason = "the purpose of the type; see # Safety")]
    pub unsafe fn write(&self, range: Range<usize>) -> &mut [T] {
        let cells = &self.cells[range];
        let first = cells.as_ptr().cast::<T>().cast_mut();
        // SAFETY: the cells allow mutation through a shared reference; the caller promises that
        // nobody else touches them meanwhile.
        unsafe { std::slice::from_raw_parts_mut(first, cells.len()) }
    }

    /// All values, for the one who holds the buffer exclusively.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let n = self.cells.len();
        // SAFETY: `&mut self` is exclusive.
        unsafe { self.write(0..n) }
    }

    /// All values, for the one who holds the buffer exclusively.
    pub fn as_slice(&mut self) -> &[T] {
        self.as_mut_slice()
    }
}
