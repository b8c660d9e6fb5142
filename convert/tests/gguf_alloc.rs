//! Whatever a GGUF file says, what is allocated for it is bounded by its own length.
//!
//! The bound is not the length itself: an entry of the table of tensors takes 33 bytes or more in the file and 88 in
//! memory, a key with a Boolean 14 and about 100.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used, clippy::print_stdout)]

#[path = "common/models.rs"]
mod models;
#[path = "common/seeds.rs"]
mod seeds;
#[path = "common/writer.rs"]
mod writer;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use chaski_convert::source::{Source, gguf::GgufFile};
use writer::{Gguf, TEXT, Tensor, U8, array, floats, ints, texts, uint};

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

/// Errors, notes, configs and the like.
const SMALL: usize = 16 << 10;

/// What was asked for beyond the file's own bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// The largest request.
    largest: usize,
    /// The most bytes at a time.
    peak: usize,
}

fn measure<T>(of: impl FnOnce() -> T) -> (T, Use) {
    let before = LIVE.load(Relaxed);
    LARGEST.store(0, Relaxed);
    PEAK.store(before, Relaxed);
    let result = of();
    let (largest, peak) = (LARGEST.load(Relaxed), PEAK.load(Relaxed) - before);
    (result, Use { largest, peak })
}

/// Files that ask for as much as they can.
fn greedy() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut add = |name: &str, file: &Gguf| {
        let bytes = file.bytes();
        // The same without most of what it announces.
        for len in [bytes.len(), bytes.len() / 2, bytes.len() / 3, 1000] {
            let part = bytes[..len.min(bytes.len())].to_vec();
            files.push((format!("{name}, {len} bytes"), part));
        }
    };
    let mut file = models::small();
    for i in 0..60_000 {
        file.keys
            .push((format!("{i:x}").into_bytes(), writer::raw(U8, &[1])));
    }
    add("60,000 keys", &file);

    let mut file = models::small();
    file.alignment = 1;
    file.set("general.alignment", uint(1));
    for i in 0..60_000 {
        file.tensors
            .push(Tensor::new(&format!("{i:x}"), &[1], 1, vec![0; 2]));
    }
    add("60,000 tensors", &file);
    file.tensors.iter_mut().for_each(|t| t.data.clear());
    add("60,000 tensors without data", &file);

    let mut file = models::small();
    let names: Vec<String> = (0..100_000).map(|i| format!("{i:x}")).collect();
    file.set("tokenizer.ggml.tokens", texts(&names));
    file.set("tokenizer.ggml.token_type", ints(&[3; 100_000]));
    add("100,000 tokens for 6 rows", &file);
    let t = file.tensor("token_embd.weight");
    (t.dims, t.data) = (vec![4, 100_000], vec![0; 800_000]);
    add("100,000 tokens", &file);

    let mut file = models::small();
    file.set("tokenizer.ggml.merges", texts(&["a b"; 100_000]));
    add("100,000 merges", &file);
    file.set(
        "tokenizer.ggml.merges",
        array(TEXT, 500_000, &vec![0; 4_000_000]),
    );
    add("500,000 empty merges", &file);

    // Every text of two letters up to a length: each can be cut in two anywhere.
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..14 {
        let end = all.len();
        for i in from..end {
            all.extend(["a", "b"].map(|c| all[i].clone() + c));
        }
        from = end;
    }
    all.remove(0);
    let mut file = models::small_sentencepiece();
    for (key, value) in [
        ("tokens", texts(&all)),
        ("token_type", ints(&vec![1; all.len()])),
        ("scores", floats(&vec![0.0; all.len()])),
    ] {
        file.set(&format!("tokenizer.ggml.{key}"), value);
    }
    let t = file.tensor("token_embd.weight");
    (t.dims, t.data) = (vec![4, all.len() as u64], vec![0; 8 * all.len()]);
    add("all texts of two letters", &file);
    files
}

// One test, so that no other allocates at the same time.
#[test]
fn what_is_allocated_is_bounded_by_the_file() {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, bytes) in seeds::seeds() {
        files.push((name.to_owned(), bytes));
    }
    let small = models::small();
    let (bytes, header) = (small.bytes(), small.header().len());
    for at in 0..header {
        for value in [&[0xff][..], &[0x7f], &[0xff, 0xff, 0xff, 0x7f], &[0xff; 8]] {
            let mut changed = bytes.clone();
            let end = (at + value.len()).min(header);
            changed[at..end].copy_from_slice(&value[..end - at]);
            files.push((format!("{value:?} at {at}"), changed));
        }
    }
    files.extend(greedy());

    let (mut opened, mut largest) = (0, 0.0_f64);
    let (mut open_factor, mut token_factor) = (0.0_f64, 0.0_f64);
    for (name, file) in &files {
        let copy = file.clone();
        let room = file.len() + SMALL;
        let (source, used) = measure(|| GgufFile::from_bytes(Path::new("a.gguf"), copy));
        println!("{name}: {used:?} of {}", file.len());
        largest = largest.max(used.largest as f64 / room as f64);
        open_factor = open_factor.max(used.peak as f64 / room as f64);
        let Ok(source) = source else { continue };
        opened += 1;
        let (_, used) = measure(|| source.tokenizer().map(drop));
        println!("{name}: tokenizer {used:?} of {}", file.len());
        token_factor = token_factor.max(used.peak as f64 / room as f64);
    }
    println!(
        "{} files, {opened} open; for each byte at most {largest:.2} at once, {open_factor:.2} in use, {token_factor:.2} \
         in use for its tokenizer",
        files.len()
    );
    assert!(
        opened >= 10 && opened < files.len() / 2,
        "{opened} of {}",
        files.len()
    );
    assert!(largest < 3.0, "{largest} times the file at once");
    assert!(open_factor < 10.0, "{open_factor} times the file in use");
    assert!(token_factor < 40.0, "{token_factor} times the file in use");
}
