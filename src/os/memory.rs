//! Memory: what is resident, and what is to be.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{OsError, imp};

/// Resident memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, bytes.
    pub resident: u64,
    /// Of which pages of mapped files, bytes: the weights, and the program itself.
    pub file: u64,
    /// The largest it ever was, bytes.
    pub peak: u64,
}

/// Resident memory, where the system tells.
pub fn memory() -> Option<Memory> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        file: field("RssFile:")?,
        peak: field("VmHWM:")?,
    })
}

/// Keeps `bytes` in memory until they are unmapped.
///
/// # Errors
///
/// [`OsError::Lock`] tells the process's limit and what to do.
pub fn lock(bytes: &[u8]) -> Result<(), OsError> {
    imp::lock(bytes)
}

/// Bytes in anonymous memory that is made of huge pages where the system has them.
#[derive(Debug)]
pub struct HugePages(imp::Huge);

impl AsRef<[u8]> for HugePages {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// Copies `bytes` to memory that the system is asked to make of huge pages. The copy is private to
/// the process, takes as much memory again as the file in the page cache, and as long as reading it.
///
/// # Errors
///
/// There is not enough memory, or the system has no huge pages.
pub fn copy_to_huge_pages(bytes: &[u8]) -> Result<HugePages, OsError> {
    imp::copy_to_huge_pages(bytes).map(HugePages)
}

/// Bytes that are asked for at once: some milliseconds of a disk.
const CHUNK: usize = 4 << 20;
/// Chunks that the disk is asked for before the one that is waited for.
const AHEAD: usize = 4;

/// A thread that reads a mapped file ahead; it ends when the file is read or this is dropped.
#[derive(Debug)]
pub struct ReadAhead {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

/// Brings a mapped file into memory from its start to its end, in a thread of its own, so that who
/// computes with it meanwhile does not wait for the disk page by page.
///
/// `None` where there is nothing to do: the file is in memory already, or the system cannot tell or
/// be asked.
pub fn read_ahead<T: AsRef<[u8]> + Send + 'static>(map: T) -> Option<ReadAhead> {
    if imp::is_resident(map.as_ref()) != Some(false) {
        return None;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let read = move || {
        let map = map.as_ref();
        let chunk = |i: usize| map.chunks(CHUNK).nth(i).unwrap_or_default();
        (0..AHEAD).for_each(|i| imp::will_need(chunk(i)));
        for i in 0..map.len().div_ceil(CHUNK) {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            imp::will_need(chunk(i + AHEAD));
            imp::populate(chunk(i));
        }
    };
    let thread = thread::Builder::new().name("chaski-read".to_owned());
    // Without the thread the file is read when it is used.
    let thread = thread.spawn(read).ok()?;
    Some(ReadAhead {
        stop,
        thread: Some(thread),
    })
}
