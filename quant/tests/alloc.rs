//! Whatever a file says, opening it allocates nothing that is longer than the file.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

mod common;
#[path = "common/drive.rs"]
mod drive;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt::Write,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use chaski_quant::container::Container;
use common::{build, sign, tiny, tiny_file, vector};

/// The system's allocator, with a look at every request.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    LARGEST.fetch_max(bytes, Relaxed);
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every request goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of this same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Errors, the table of sections and the like.
const SMALL: usize = 4096;

/// Opens and verifies `file`; the largest request and the most bytes in use, beyond the file's own.
fn measure(file: &[u8]) -> (bool, usize, usize) {
    let copy = file.to_vec();
    let before = LIVE.load(Relaxed);
    LARGEST.store(0, Relaxed);
    PEAK.store(before, Relaxed);
    let opened = Container::from_bytes(copy).map(|c| c.verify(|_, _| {}));
    let (largest, peak) = (LARGEST.load(Relaxed), PEAK.load(Relaxed) - before);
    (opened.is_ok(), largest, peak)
}

// One test, so that no other allocates at the same time.
#[test]
fn no_allocation_is_larger_than_the_file() {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/container");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((
            path.display().to_string(),
            drive::expand(&std::fs::read(&path).unwrap()),
        ));
    }
    // Every byte of header and directory, and every pair of bytes at the upper end of a number.
    let tiny_file = tiny_file();
    for at in (0..512).chain(0x108c0..0x108c0 + 195) {
        for bytes in [&[0xff][..], &[0x7f], &[0xff, 0xff, 0xff, 0x7f], &[0xff; 8]] {
            let mut file = tiny_file.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            sign(&mut file);
            files.push((format!("{bytes:?} at {at}"), file));
        }
    }
    // As many tensors as bytes can hold, with names as short as can be.
    let vectors = (0..60_000).map(|i| vector(&format!("{i:x}"), 1)).collect();
    files.push(("60,000 vectors".to_owned(), build(vectors, &[], "{}", 1)));
    // The same directory in a file that lacks the data for it.
    let mut short = build(Vec::new(), &[], "{}", 1);
    let mut directory = vec![0; 8];
    directory[..4].copy_from_slice(&60_000_u32.to_le_bytes());
    directory.resize(8 + 60_000 * 45, 1);
    short.truncate(65536);
    short.extend_from_slice(&directory);
    let at = short.len().next_multiple_of(64);
    short.resize(at, 0);
    short.extend_from_slice(b"{}");
    for (field, value) in [
        (16, at + 2),
        (24 + 28 + 12, directory.len()),
        (24 + 56 + 4, at),
        (24 + 56 + 12, 2),
    ] {
        short[field..field + 8].copy_from_slice(&(value as u64).to_le_bytes());
    }
    sign(&mut short);
    files.push(("60,000 entries without data".to_owned(), short));
    // Metadata that make large trees.
    let zeros = format!("{{\"a\":[{}0]}}", "0,".repeat(2 << 20));
    let objects = format!("{{\"a\":[{}{{}}]}}", "{},".repeat(1 << 20));
    let mut keys = "{".to_owned();
    (0..200_000).for_each(|i| write!(keys, "\"{i:x}\":0,").unwrap());
    keys.push_str("\"z\":0}");
    let escapes = format!("{{\"a\":\"{}\"}}", "\\u00e9".repeat(1 << 20));
    for (name, text) in [
        ("zeros", zeros),
        ("objects", objects),
        ("keys", keys),
        ("escapes", escapes),
    ] {
        files.push((name.to_owned(), build(tiny(), &[], &text, 1)));
    }

    let (mut opened, mut worst) = (0, 0.0_f64);
    for (name, file) in &files {
        let (ok, largest, peak) = measure(file);
        opened += usize::from(ok);
        assert!(
            largest <= file.len() + SMALL,
            "{name}: {largest} bytes for {}",
            file.len()
        );
        worst = worst.max(peak as f64 / (file.len() + SMALL) as f64);
    }
    println!(
        "{} files, {opened} open; at most {worst:.2} bytes in use for each byte",
        files.len()
    );
    assert!(
        opened >= 10 && opened < files.len() / 2,
        "{opened} of {}",
        files.len()
    );
    assert!(worst < 4.0, "{worst} times the file in use");
}
