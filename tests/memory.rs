//! Memory is a contract: what `plan` says is what a session allocates, and nothing is allocated
//! while tokens are computed. In a binary of its own, since it counts what the whole process does.
#![allow(unsafe_code)] // an allocator that counts
#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use chaski::{
    Session, SessionOptions,
    plan::plan,
    sampler::{Sampler, SamplerOptions},
};
use chaski_kernels_simd::Kernels;
use chaski_models::{reference::KvType, testing::Variant};
use chaski_quant::QuantType;

#[path = "it/tiny.rs"]
#[expect(dead_code, reason = "this binary needs a part of it")]
mod tiny;

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    COUNT.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
}

/// What the threads of a team cost beside their scratch: names, queues, handles.
const PER_THREAD: u64 = 16 << 10;

// One test: two at once would count each other.
#[test]
fn a_session_allocates_what_the_plan_says_and_nothing_more_while_it_runs() {
    let variant = Variant::Qwen3;
    let model = tiny::model(
        &tiny::container(variant, Some(QuantType::Q4)),
        Kernels::best(),
    );
    let text = tiny::text(model.config(), 600);
    for (threads, ubatch, logit_rows, context_len) in
        [(1, 64, 1, 700), (2, 256, 7, 600), (3, 600, 600, 2000)]
    {
        let options = SessionOptions {
            context_len: Some(context_len),
            kv_type: KvType::F16,
            ubatch,
            threads: Some(threads),
            logit_rows,
            ..SessionOptions::default()
        };
        let planned = plan(&model, &options).unwrap().total_private;
        let before = BYTES.load(Relaxed);
        let mut session = Session::new(&model, &options).unwrap();
        let got = BYTES.load(Relaxed) - before;
        let most = planned + PER_THREAD * threads as u64;
        assert!(
            (planned..=most).contains(&got),
            "{got} bytes, planned {planned}: {options:?}"
        );

        let vocab_size = model.config().vocab_size;
        let options = SamplerOptions {
            repeat_penalty: 1.1,
            ..SamplerOptions::default()
        };
        let mut sampler = Sampler::new(options, vocab_size).unwrap();
        // The worker threads start while the session is made; a pass waits until all have.
        session.extend(&text[..1]).unwrap();
        session.clear();
        let before = COUNT.load(Relaxed);
        session.extend(&text[..550]).unwrap();
        for _ in 0..40 {
            let token = sampler.sample(session.logits().unwrap());
            session.extend(&[token]).unwrap();
        }
        session.set_text(&text[..100]).unwrap();
        session
            .extend_with(&text[100..200], 50, &mut |_, _| ())
            .unwrap();
        assert_eq!(
            COUNT.load(Relaxed) - before,
            0,
            "allocations with {threads} threads"
        );
    }
}
