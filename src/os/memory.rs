//! Memory: what is resident, and what is to be.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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

/// Has `bytes` come to memory as huge pages where the system can: fewer translations to look up, and
/// fewer faults. A hint: nothing is copied, and where it is not followed nothing changes.
pub fn prefer_huge_pages(bytes: &[u8]) {
    imp::prefer_huge_pages(bytes);
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

/// Bytes that a reader waits for at once: a huge page, some milliseconds of a disk.
const CHUNK: usize = 2 << 20;
/// Threads that read, so that the disk always has more than one chunk to do.
const READERS: usize = 3;

/// Threads that read a mapped file ahead; they end when the file is read or this is dropped.
#[derive(Debug)]
pub struct ReadAhead {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

/// Brings a mapped file into memory from its start to its end, in threads of its own, so that who
/// computes with it meanwhile does not wait for the disk page by page.
///
/// `None` where there is nothing to do: the file is in memory already, or the system cannot tell or
/// be asked.
///
/// The page cache is asked for huge pages, and the bytes are read by touching them: the usual advice
/// (`MADV_WILLNEED`) fills the cache with 4 KiB pages, over which every later run decodes a third
/// slower, since most of the time then goes into looking up addresses.
pub fn read_ahead<T: AsRef<[u8]> + Send + Sync + 'static>(map: T) -> Option<ReadAhead> {
    if imp::is_resident(map.as_ref()) != Some(false) {
        return None;
    }
    imp::prefer_huge_pages(map.as_ref());
    let (map, next) = (Arc::new(map), Arc::new(AtomicUsize::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = |i: usize| {
        let (map, next, stop) = (Arc::clone(&map), Arc::clone(&next), Arc::clone(&stop));
        let read = move || {
            let map = (*map).as_ref();
            while !stop.load(Ordering::Relaxed) {
                let first = next.fetch_add(CHUNK, Ordering::Relaxed);
                let Some(rest) = map.get(first..).filter(|rest| !rest.is_empty()) else {
                    return;
                };
                imp::populate(&rest[..rest.len().min(CHUNK)]);
            }
        };
        let thread = thread::Builder::new().name(format!("chaski-read-{i}"));
        // Without a thread the file is read when it is used.
        thread.spawn(read).ok()
    };
    let threads = (0..READERS).map_while(reader).collect();
    Some(ReadAhead { stop, threads })
}
