//! Calls that Linux has.
#![allow(unsafe_code)] // madvise, mlock and mincore over memory that a slice proves to be mapped

use std::{io, ptr};

use memmap2::{Advice as MapAdvice, MmapMut};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
    mm::{self, Advice},
    process::{Resource, getrlimit},
    thread::{CpuSet, sched_setaffinity},
};

use super::OsError;

pub(super) const CAN_PIN: bool = true;

pub(super) fn pin_thread(cpu: usize) -> Result<(), OsError> {
    let failed = |cause| OsError::Pin { cpu, cause };
    if cpu >= CpuSet::MAX_CPU {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|e| failed(e.into()))
}

pub(super) fn lock(bytes: &[u8]) -> Result<(), OsError> {
    // SAFETY: the slice is mapped; locking changes neither its bytes nor its protection.
    let locked = unsafe { mm::mlock(bytes.as_ptr().cast_mut().cast(), bytes.len()) };
    locked.map_err(|e| OsError::Lock {
        bytes: bytes.len() as u64,
        limit: getrlimit(Resource::Memlock).current,
        cause: e.into(),
    })
}

pub(super) fn input_waits() -> bool {
    let input = io::stdin();
    let Ok(stat) = rustix::fs::fstat(&input) else {
        return false;
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let at = rustix::fs::tell(&input).unwrap_or(u64::MAX);
            u64::try_from(stat.st_size).is_ok_and(|len| at < len)
        }
        FileType::Fifo | FileType::Socket => {
            let mut polled = [PollFd::new(&input, PollFlags::IN)];
            let now = Timespec::default();
            poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::IN)
        }
        _ => false,
    }
}

/// The whole pages that `bytes` touch, as an address and a length.
fn pages(bytes: &[u8]) -> (*mut u8, usize) {
    let size = rustix::param::page_size();
    let before = bytes.as_ptr().addr() % size;
    let start = bytes.as_ptr().cast_mut().wrapping_sub(before);
    (start, (before + bytes.len()).next_multiple_of(size))
}

fn advise(bytes: &[u8], advice: Advice) {
    if bytes.is_empty() {
        return;
    }
    let (start, len) = pages(bytes);
    // SAFETY: the pages are mapped, since the slice touches each of them. Only advice that leaves
    // their bytes as they are is given here. It is a hint, so that its failure changes nothing.
    let _ = unsafe { mm::madvise(start.cast(), len, advice) };
}

/// Asks for the bytes to be read from the disk, and does not wait.
pub(super) fn will_need(bytes: &[u8]) {
    advise(bytes, Advice::WillNeed);
}

/// Waits until the bytes are in memory and in the process's page tables.
pub(super) fn populate(bytes: &[u8]) {
    advise(bytes, Advice::LinuxPopulateRead);
}

/// Places of a map that are looked at to tell whether it is in memory.
const PROBES: usize = 256;

/// Whether a mapped file is in memory, by a sample of its pages.
pub(super) fn is_resident(bytes: &[u8]) -> Option<bool> {
    let size = rustix::param::page_size();
    let (start, len) = pages(bytes);
    let n_pages = len / size;
    for i in 0..PROBES.min(n_pages) {
        let page = start.wrapping_add(i * n_pages / PROBES.min(n_pages) * size);
        if !page_is_resident(page, size)? {
            return Some(false);
        }
    }
    Some(true)
}

fn page_is_resident(page: *mut u8, size: usize) -> Option<bool> {
    let mut state = [0_u8; 1];
    // SAFETY: the page is mapped; one byte is written for one page, into a buffer that has it.
    let done = unsafe { libc::mincore(page.cast(), size, ptr::from_mut(&mut state).cast()) };
    (done == 0).then_some(state[0] & 1 != 0)
}

/// Bytes of a huge page: x86-64's, and Arm's with pages of 4 KiB.
const HUGE: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct Huge {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Huge {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

pub(super) fn copy_to_huge_pages(bytes: &[u8]) -> Result<Huge, OsError> {
    let len = bytes.len();
    let failed = |cause| OsError::HugePages {
        bytes: len as u64,
        cause,
    };
    // Room to begin at a huge page's boundary.
    let mut map = MmapMut::map_anon(len + HUGE).map_err(failed)?;
    map.advise(MapAdvice::HugePage).map_err(failed)?;
    let start = map.as_ptr().align_offset(HUGE);
    let start = if start < HUGE { start } else { 0 };
    // The copy then does not wait for the disk page by page.
    will_need(bytes);
    map[start..start + len].copy_from_slice(bytes);
    Ok(Huge { map, start, len })
}
