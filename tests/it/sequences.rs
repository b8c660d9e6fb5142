//! A session of several texts: forks, steps of all of them, and what a failed pass leaves.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use chaski::{Model, ModelOptions, Session, SessionOptions};
use chaski_kernels_simd::Kernels;
use chaski_models::{TokenId, reference::KvType, testing::Variant};
use chaski_quant::container::Container;

use crate::tiny;

fn session(model: &Arc<Model>, sequences: usize, threads: usize) -> Session {
    let options = SessionOptions {
        context_len: Some(300),
        kv_type: KvType::F16,
        ubatch: 64,
        threads: Some(threads),
        sequences,
        ..SessionOptions::default()
    };
    Session::new(model, &options).unwrap()
}

fn bits(session: &Session) -> Vec<u32> {
    let logits = session.logits().expect("the text was just read");
    logits.iter().map(|l| l.to_bits()).collect()
}

/// The logits after a text in a session of its own.
fn alone(model: &Arc<Model>, text: &[TokenId]) -> Vec<u32> {
    let mut session = session(model, 1, 1);
    session.set_text(text).unwrap();
    bits(&session)
}

#[test]
fn forks_go_on_in_one_pass_as_if_each_were_alone() {
    for variant in [Variant::Llama, Variant::Qwen2Window] {
        let model = tiny::model(&tiny::container(variant, None), Kernels::best());
        let text = tiny::text(model.config(), 200);
        for threads in [1, 3] {
            let mut s = session(&model, 3, threads);
            s.extend(&text[..70]).unwrap();
            let known = bits(&s);
            s.fork(1).unwrap();
            s.fork(2).unwrap();
            let mut texts = vec![text[..70].to_vec(); 3];
            for (seq, text) in texts.iter().enumerate() {
                s.select(seq).unwrap();
                assert_eq!(s.tokens(), text);
                assert!(bits(&s) == known);
            }
            for i in 0..70 {
                // Sequence 2 takes part in every third step only.
                let n = if i % 3 == 1 { 3 } else { 2 };
                let mut step: Vec<(usize, TokenId)> =
                    (0..n).map(|seq| (seq, text[70 + i + seq])).collect();
                step.rotate_left(i % n);
                s.step(&step).unwrap();
                step.iter().for_each(|&(seq, t)| texts[seq].push(t));
            }
            for seq in 0..2 {
                s.select(seq).unwrap();
                assert_eq!(s.tokens(), texts[seq]);
                assert!(
                    bits(&s) == alone(&model, &texts[seq]),
                    "{}, {threads} threads, sequence {seq}",
                    variant.name()
                );
            }
            // Its logits went with the pass that followed.
            s.select(2).unwrap();
            assert!(s.logits().is_none());
            s.extend(&text[190..191]).unwrap();
            texts[2].push(text[190]);
            assert!(bits(&s) == alone(&model, &texts[2]));
        }
    }
}

#[test]
fn a_beginning_that_any_sequence_knows_is_not_computed_again() {
    let model = tiny::model(&tiny::container(Variant::Qwen3, None), Kernels::best());
    let text = tiny::text(model.config(), 200);
    let mut s = session(&model, 2, 2);
    assert_eq!(s.set_text(&text[..150]).unwrap(), 0);
    // Another sequence, the same beginning; 100 is in the middle of a page.
    s.select(1).unwrap();
    let mut other = text[..100].to_vec();
    other.extend(&text[180..200]);
    assert_eq!(s.set_text(&other).unwrap(), 100);
    assert!(bits(&s) == alone(&model, &other));
    // Its own beginning is as long: it stays where it is.
    assert_eq!(s.set_text(&text[..90]).unwrap(), 89);
    assert!(bits(&s) == alone(&model, &text[..90]));
    // The first has not changed.
    s.select(0).unwrap();
    assert_eq!(s.tokens(), &text[..150]);
    assert_eq!(s.set_text(&text[..160]).unwrap(), 150);
    assert!(bits(&s) == alone(&model, &text[..160]));
    // A turn of a chat: the text so far, and more.
    s.extend(&text[160..170]).unwrap();
    assert_eq!(s.set_text(&text).unwrap(), 170);
    assert!(bits(&s) == alone(&model, &text));
}

#[test]
fn every_sequence_can_fill_its_context() {
    let model = tiny::model(&tiny::container(Variant::Llama, None), Kernels::best());
    let text = tiny::text(model.config(), 300);
    let mut s = session(&model, 3, 2);
    s.extend(&text[..130]).unwrap();
    s.fork(1).unwrap();
    s.fork(2).unwrap();
    for seq in 0..3 {
        s.select(seq).unwrap();
        s.extend(&text[130..]).unwrap();
        assert!(bits(&s) == alone(&model, &text), "sequence {seq}");
    }
    let error = s.step(&[(1, text[0])]).unwrap_err().to_string();
    assert!(error.contains("needs 301 positions"), "{error}");
}

#[test]
fn wrong_steps_are_refused_and_change_nothing() {
    let model = tiny::model(&tiny::container(Variant::Llama, None), Kernels::best());
    let mut s = session(&model, 2, 1);
    s.extend(&tiny::text(model.config(), 5)).unwrap();
    let before = bits(&s);
    let t = TokenId(1);
    for (step, want) in [
        (vec![], "there is no token to read"),
        (vec![(0, t), (2, t)], "sequence 2 of a session of 2"),
        (
            vec![(1, t), (1, t)],
            "sequence 1 was given two tokens for one step",
        ),
        (vec![(0, TokenId(u32::MAX))], "token 4294967295"),
    ] {
        let error = s.step(&step).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
    let refused = [s.select(2), s.fork(7)].map(|done| done.unwrap_err().to_string());
    assert_eq!(
        refused,
        [2, 7].map(|seq| format!("sequence {seq} of a session of 2"))
    );
    assert!(bits(&s) == before);
    s.select(1).unwrap();
    assert!(s.tokens().is_empty() && s.logits().is_none());
}

/// A file that breaks on one thread of the team when it is told to.
struct Trap {
    bytes: Vec<u8>,
    set: Arc<AtomicBool>,
    worker: &'static str,
}

impl AsRef<[u8]> for Trap {
    fn as_ref(&self) -> &[u8] {
        let here = thread::current();
        let is_helper = here.name().is_some_and(|n| n.starts_with("chaski-worker"));
        let name = here.name().filter(|_| is_helper).unwrap_or("caller");
        if self.set.load(Ordering::Relaxed) && name == self.worker {
            panic!("the trap of {name}");
        }
        &self.bytes
    }
}

#[test]
fn a_worker_that_panics_is_an_error_of_the_session_which_goes_on_after_it() {
    let bytes = tiny::container(Variant::Llama, None);
    let text = tiny::text(tiny::model(&bytes, Kernels::best()).config(), 120);
    let want = alone(&tiny::model(&bytes, Kernels::best()), &text);
    for (worker, index) in [
        ("caller", 0),
        ("chaski-worker-1", 1),
        ("chaski-worker-2", 2),
    ] {
        let set = Arc::new(AtomicBool::new(false));
        let trap = Trap {
            bytes: bytes.clone(),
            set: Arc::clone(&set),
            worker,
        };
        let container = Container::from_owner(Box::new(trap)).unwrap();
        let options = ModelOptions::default();
        let model = Model::from_container(container, Path::new("trap"), &options).unwrap();
        let mut s = session(&Arc::new(model), 1, 3);
        s.extend(&text[..100]).unwrap();
        for _ in 0..2 {
            set.store(true, Ordering::Relaxed);
            let error = s.extend(&text[100..]).unwrap_err();
            set.store(false, Ordering::Relaxed);
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(
                cause.contains(&format!("the trap of {worker}")),
                "worker {index}: {cause}"
            );
            assert_eq!(s.tokens().len(), 100);
            assert!(s.logits().is_none());
        }
        s.extend(&text[100..]).unwrap();
        assert!(bits(&s) == want, "after the panic of {worker}");
    }
}
