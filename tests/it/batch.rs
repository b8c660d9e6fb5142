//! The backend with several sequences: whatever shares a call, each row's logits are those that the
//! oracle gives for its sequence alone.

use std::sync::Arc;

use chaski::{
    Model,
    backend::cpu::{CpuBackend, PassLimits},
};
use chaski_kernels_simd::Kernels;
use chaski_models::{
    Backend, BackendError, Row, TokenId,
    forward::n_logits,
    reference::KvType,
    testing::{Rng, Variant},
};
use chaski_quant::{QuantType, container::Container};

use crate::tiny;

const N_SEQS: usize = 4;

fn backend(model: &Arc<Model>, threads: usize, rows: usize, context_len: usize) -> CpuBackend {
    let kv_type = KvType::F16;
    let limits = PassLimits {
        rows,
        n_seqs: N_SEQS,
        context_len,
        threads,
        kv_type,
    };
    CpuBackend::new(model, &limits).unwrap()
}

fn forward(backend: &mut dyn Backend, rows: &[Row], vocab_size: usize) -> Vec<u32> {
    let mut logits = vec![f32::NAN; n_logits(rows) * vocab_size];
    backend.forward(rows, &mut logits).unwrap();
    logits.iter().map(|l| l.to_bits()).collect()
}

fn row(seq: usize, pos: usize, token: u32) -> Row {
    Row {
        seq,
        pos,
        token: TokenId(token),
        logits: true,
    }
}

/// Calls of random rows: any number of any sequences, shuffled into each other, some going back.
fn random_calls(
    seed: u64,
    vocab_size: usize,
    context_len: usize,
    max_rows: usize,
) -> Vec<Vec<Row>> {
    let mut rng = Rng::new(seed);
    let mut below = |n: usize| (rng.next_u64() % n as u64) as usize;
    let mut lens = [0; N_SEQS];
    let mut calls = Vec::new();
    for _ in 0..24 {
        let mut next = lens;
        for (next, len) in next.iter_mut().zip(lens) {
            if below(6) == 0 {
                *next = below(len + 1);
            }
        }
        // Now and then a long stretch of one sequence, so that contexts grow past a span.
        let long = (below(3) == 0).then(|| below(N_SEQS));
        let mut rows = Vec::new();
        for _ in 0..1 + below(if long.is_some() { max_rows } else { 14 }) {
            let seq = long
                .filter(|_| below(8) > 0)
                .unwrap_or_else(|| below(N_SEQS));
            if next[seq] == context_len {
                continue;
            }
            let token = TokenId(below(vocab_size) as u32);
            rows.push(Row {
                seq,
                pos: next[seq],
                token,
                logits: below(3) == 0,
            });
            next[seq] += 1;
        }
        for seq in 0..N_SEQS {
            if rows.iter().any(|r| r.seq == seq) {
                lens[seq] = next[seq];
            }
        }
        if !rows.is_empty() {
            calls.push(rows);
        }
    }
    calls
}

#[test]
fn rows_of_other_sequences_change_no_bit() {
    for (seed, variant) in [Variant::Llama, Variant::Qwen2Window, Variant::LlamaUntied]
        .into_iter()
        .enumerate()
    {
        let config = variant.config();
        let model = tiny::model(&tiny::container(variant, None), Kernels::best());
        let mut reference = tiny::reference(variant, None, KvType::F16);
        let calls = random_calls(seed as u64, config.vocab_size, 600, 200);
        let want: Vec<Vec<u32>> = calls
            .iter()
            .map(|rows| forward(&mut reference, rows, config.vocab_size))
            .collect();
        for threads in [1, 3] {
            let mut backend = backend(&model, threads, 200, 600);
            for (i, (rows, want)) in calls.iter().zip(&want).enumerate() {
                let got = forward(&mut backend, rows, config.vocab_size);
                assert!(
                    got == *want,
                    "{}, {threads} threads, call {i}",
                    variant.name()
                );
            }
        }
    }
}

#[test]
fn a_fork_shares_pages_and_changes_no_bit() {
    let model = tiny::model(&tiny::container(Variant::Qwen3, None), Kernels::best());
    let vocab_size = model.config().vocab_size;
    let text = tiny::text(model.config(), 100);
    let rows = |seq: usize, from: usize, to: usize, shift: u32| -> Vec<Row> {
        let token = |pos: usize| (text[pos].0 + shift) % vocab_size as u32;
        (from..to).map(|pos| row(seq, pos, token(pos))).collect()
    };
    let mut one = backend(&model, 2, 100, 130);
    forward(&mut one, &rows(0, 0, 90, 0), vocab_size);
    one.fork(0, 1, 80);
    one.fork(1, 2, 64);
    assert_eq!([0, 1, 2, 3].map(|seq| one.n_stored(seq)), [90, 80, 64, 0]);
    // Each goes on in its own way; none sees what another writes.
    let mut calls = rows(1, 80, 100, 1);
    calls.extend(rows(2, 64, 100, 2));
    calls.extend(rows(0, 90, 100, 0));
    let got = forward(&mut one, &calls, vocab_size);
    let mut other = backend(&model, 1, 100, 130);
    for (seq, n) in [(0, 90), (1, 80), (2, 64)] {
        forward(&mut other, &rows(seq, 0, n, 0), vocab_size);
    }
    assert!(got == forward(&mut other, &calls, vocab_size));
    one.truncate(0, 0);
    assert_eq!(one.n_stored(0), 0);
    let again = rows(1, 100, 100, 0);
    assert!(again.is_empty());
}

#[test]
fn broken_rows_are_refused_and_nothing_is_stored() {
    let model = tiny::model(&tiny::container(Variant::Llama, None), Kernels::best());
    let n = model.config().vocab_size;
    let mut backend = backend(&model, 2, 8, 70);
    let mut logits = vec![0.0; 8 * n];
    for (rows, want) in [
        (vec![], "0 rows in a call: expected 1 to 8"),
        (
            vec![row(4, 0, 0)],
            "row 0 is of sequence 4, but there are 4 sequences",
        ),
        (
            vec![row(0, 1, 0)],
            "row 0 is at position 1: expected 0 to 0",
        ),
        (vec![row(0, 0, u32::MAX)], "row 0 has token 4294967295"),
    ] {
        let logits = &mut logits[..rows.len() * n];
        let error = backend.forward(&rows, logits).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
    assert!((0..4).all(|seq| backend.n_stored(seq) == 0));
}

/// A model one of whose weights is not a number; its checksum would tell, but opening a file does not
/// read the tensors.
pub(crate) fn broken_model() -> Arc<Model> {
    let mut bytes = tiny::container(Variant::Llama, Some(QuantType::F32));
    let container = Container::from_bytes(bytes.clone()).unwrap();
    let tensor = container
        .tensors()
        .iter()
        .find(|t| t.name == "blk.1.ffn_down")
        .unwrap();
    let at = container.data_range().start + tensor.offset as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    tiny::model(&bytes, Kernels::best())
}

#[test]
fn logits_that_are_not_finite_are_an_error_that_names_the_row() {
    let model = broken_model();
    let n = model.config().vocab_size;
    for threads in [1, 2] {
        let mut backend = backend(&model, threads, 8, 70);
        let rows = [
            Row {
                logits: false,
                ..row(2, 0, 5)
            },
            row(2, 1, 6),
            row(2, 2, 7),
        ];
        let error = backend.forward(&rows, &mut vec![0.0; 2 * n]).unwrap_err();
        assert_eq!(
            error,
            BackendError::NotFinite {
                row: 1,
                token: TokenId(0)
            }
        );
        assert_eq!(backend.n_stored(2), 0);
        // Without logits nobody looks.
        backend.forward(&rows[..1], &mut []).unwrap();
        assert_eq!(backend.n_stored(2), 1);
    }
}
