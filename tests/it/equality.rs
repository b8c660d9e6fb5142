//! The same file and the same tokens give the same logits, bit for bit: as the oracle's, on every
//! SIMD level, with any number of threads, for any split of the text, in any batch size.

use std::{env, sync::Arc};

use chaski::{Model, Session, SessionOptions};
use chaski_kernels_simd::Kernels;
use chaski_models::{TokenId, reference::KvType, testing::Variant};
use chaski_quant::{QuantType, container::Container};

use crate::tiny;

/// Whether fewer combinations have to do: on emulated CPUs, where every one takes seconds. Each
/// variant, type, KV type and level still occurs.
fn brief() -> bool {
    env::var_os("CHASKI_TEST_BRIEF").is_some()
}

fn session(model: &Arc<Model>, kv_type: KvType, threads: usize, ubatch: usize) -> Session {
    let options = SessionOptions {
        context_len: Some(700),
        kv_type,
        ubatch,
        threads: Some(threads),
        logit_rows: 5,
        ..SessionOptions::default()
    };
    Session::new(model, &options).unwrap()
}

/// The bits of the logits after each token from `first` on, the text read in parts.
fn bits(session: &mut Session, parts: &[&[TokenId]], first: usize) -> Vec<u32> {
    let (mut bits, mut start) = (Vec::new(), 0);
    for part in parts {
        let mut sink = |i: usize, logits: &[f32]| {
            if start + i >= first {
                bits.extend(logits.iter().map(|l| l.to_bits()));
            }
        };
        session
            .extend_with(part, first.saturating_sub(start), &mut sink)
            .unwrap();
        start += part.len();
    }
    bits
}

fn by_definition(
    variant: Variant,
    qtype: Option<QuantType>,
    kv_type: KvType,
    text: &[TokenId],
) -> Vec<u32> {
    let mut reference = tiny::reference(variant, qtype, kv_type);
    reference
        .logits(text)
        .unwrap()
        .iter()
        .map(|l| l.to_bits())
        .collect()
}

/// Compares without printing megabytes.
fn assert_same(got: &[u32], want: &[u32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: number of logits");
    if let Some(i) = (0..got.len()).find(|&i| got[i] != want[i]) {
        let [got, want] = [got[i], want[i]].map(f32::from_bits);
        panic!("{what}: logit {i} is {got:e}, by definition {want:e}");
    }
}

#[test]
fn every_variant_is_computed_as_defined_on_every_level() {
    for (i, variant) in Variant::ALL.into_iter().enumerate() {
        let bytes = tiny::container(variant, None);
        let text = tiny::text(&variant.config(), 70);
        let kv_types = [KvType::F32, KvType::F16, KvType::Q8];
        let kv_types = if brief() {
            &kv_types[i % 3..][..1]
        } else {
            &kv_types[..]
        };
        for &kv_type in kv_types {
            let want = by_definition(variant, None, kv_type, &text);
            for kernels in Kernels::available() {
                let model = tiny::model(&bytes, kernels);
                let got = bits(&mut session(&model, kv_type, 2, 64), &[&text], 0);
                let what = format!("{} {kv_type:?} {}", variant.name(), kernels.name());
                assert_same(&got, &want, &what);
            }
        }
    }
}

#[test]
fn every_type_is_computed_as_defined_on_every_level() {
    for qtype in QuantType::ALL {
        let bytes = tiny::container(Variant::LlamaUntied, Some(qtype));
        let text = tiny::text(&Variant::LlamaUntied.config(), 40);
        let want = by_definition(Variant::LlamaUntied, Some(qtype), KvType::F16, &text);
        for kernels in Kernels::available() {
            let model = tiny::model(&bytes, kernels);
            let got = bits(&mut session(&model, KvType::F16, 1, 256), &[&text], 0);
            assert_same(&got, &want, &format!("{qtype} {}", kernels.name()));
        }
    }
}

#[test]
fn rounded_activations_are_those_of_the_definition_on_every_level() {
    // Heads and widths that are no whole blocks; one span and two.
    for (variant, n) in [(Variant::LlamaUntied, 40), (Variant::Qwen3, 520)] {
        let (text, first) = (tiny::text(&variant.config(), n), n - 8);
        let bytes = tiny::container(variant, Some(QuantType::F16));
        let reference = tiny::reference(variant, Some(QuantType::F16), KvType::F16);
        let logits = reference.round_activations().logits(&text).unwrap();
        let want = &logits[first * variant.config().vocab_size..];
        let want: Vec<u32> = want.iter().map(|l| l.to_bits()).collect();
        for kernels in Kernels::available() {
            let model = tiny::model(&bytes, kernels);
            let options = |threads, ubatch| SessionOptions {
                context_len: Some(700),
                ubatch,
                threads: Some(threads),
                logit_rows: 5,
                round_activations: true,
                ..SessionOptions::default()
            };
            let (before, last) = text.split_at(n - 1);
            for (threads, ubatch, parts) in [(2, 64, &[before, last][..]), (1, 3, &[&text[..]])] {
                let mut session = Session::new(&model, &options(threads, ubatch)).unwrap();
                let got = bits(&mut session, parts, first);
                let what = format!("{} {n} {}", variant.name(), kernels.name());
                assert_same(&got, &want, &what);
            }
        }
        let exact = by_definition(variant, Some(QuantType::F16), KvType::F16, &text);
        assert!(!exact.ends_with(&want), "rounding does nothing");
    }
}

#[test]
fn a_model_with_all_matrices_of_another_is_the_other() {
    for variant in [Variant::Llama, Variant::Qwen3] {
        let text = tiny::text(&variant.config(), 20);
        let files = [QuantType::F32, QuantType::Q4].map(|t| tiny::container(variant, Some(t)));
        let open = |i: usize| tiny::open(&files[i], Kernels::best()).unwrap();
        let run = |model: Model| {
            bits(
                &mut session(&Arc::new(model), KvType::F16, 1, 64),
                &[&text],
                0,
            )
        };
        let hybrid = open(0).with_matrices_of(open(1), |_, _| true).unwrap();
        assert_same(&run(hybrid), &run(open(1)), variant.name());
        let none = open(0).with_matrices_of(open(1), |_, _| false).unwrap();
        assert_same(&run(none), &run(open(0)), variant.name());
        let one = open(0).with_matrices_of(open(1), |role, layer| {
            (role, layer) == (chaski_models::Role::FfnGate, Some(1))
        });
        let one = run(one.unwrap());
        assert!(
            one != run(open(0)) && one != run(open(1)),
            "{}",
            variant.name()
        );

        let mut moved = files[1].clone();
        let container = Container::from_bytes(moved.clone()).unwrap();
        let norm = container.tensor("blk.1.ffn_norm").unwrap().entry.offset as usize;
        let norm = container.data_range().start + norm;
        moved[norm + 2] ^= 1;
        let other = || tiny::open(&moved, Kernels::best()).unwrap();
        let matrices = open(0).with_matrices_of(other(), |role, _| !role.is_vector());
        let error = matrices.unwrap_err();
        assert!(error.to_string().contains("`blk.1.ffn_norm`"), "{error}");
        let hybrid = open(0).with_matrices_of(other(), |_, _| true).unwrap();
        assert_same(&run(hybrid), &run(other()), variant.name());
    }
    let [a, b] = [Variant::Llama, Variant::Llama3Scaled]
        .map(|v| tiny::open(&tiny::container(v, Some(QuantType::F32)), Kernels::best()).unwrap());
    assert!(a.with_matrices_of(b, |_, _| true).is_err());
}

#[test]
fn threads_batches_and_splits_change_no_bit() {
    // 600 positions: more than one span of attention, windowed and not.
    let variants = [Variant::Llama, Variant::Qwen2Window];
    for &variant in &variants[..if brief() { 1 } else { 2 }] {
        let bytes = tiny::container(variant, Some(QuantType::Q4));
        let text = tiny::text(&variant.config(), 600);
        let first = 560;
        let model = tiny::model(&bytes, Kernels::best());
        let whole = bits(&mut session(&model, KvType::F16, 1, 600), &[&text], first);
        // Every number of threads and every batch size, not every pair of them.
        let splits = [
            (3, 64),
            (4, 9),
            (1, 7),
            (2, 600),
            (2, 1),
            (8, 256),
            (16, 128),
            (3, 8),
        ];
        for &(threads, ubatch) in &splits[..if brief() { 2 } else { 8 }] {
            let got = bits(
                &mut session(&model, KvType::F16, threads, ubatch),
                &[&text],
                first,
            );
            assert_same(
                &got,
                &whole,
                &format!("{threads} threads, batches of {ubatch}"),
            );
        }
        let mut decodes: Vec<&[TokenId]> = text.chunks(1).collect();
        if brief() {
            // The last positions only.
            decodes = vec![&text[..first]];
            decodes.extend(text[first..].chunks(1));
        }
        let got = bits(&mut session(&model, KvType::F16, 2, 64), &decodes, first);
        assert_same(&got, &whole, "token by token");
        let (a, rest) = text.split_at(63);
        let (b, c) = rest.split_at(2);
        let got = bits(&mut session(&model, KvType::F16, 2, 64), &[a, b, c], first);
        assert_same(&got, &whole, "in three parts");
    }
}

#[test]
fn going_back_and_reading_on_changes_no_bit() {
    let variant = Variant::Mistral;
    let bytes = tiny::container(variant, Some(QuantType::Q6));
    let text = tiny::text(&variant.config(), 150);
    let model = tiny::model(&bytes, Kernels::best());
    let mut fresh = session(&model, KvType::Q8, 2, 64);
    fresh.extend(&text).unwrap();
    let want: Vec<u32> = fresh
        .logits()
        .unwrap()
        .iter()
        .map(|l| l.to_bits())
        .collect();
    let mut s = session(&model, KvType::Q8, 2, 64);
    let mut other = text.clone();
    other[70..].iter_mut().for_each(|t| t.0 = (t.0 + 1) % 300);
    s.extend(&other).unwrap();
    assert_eq!(s.set_text(&text).unwrap(), 70);
    assert_eq!(s.tokens(), &text[..]);
    let got: Vec<u32> = s.logits().unwrap().iter().map(|l| l.to_bits()).collect();
    assert_same(&got, &want, "after a common beginning of 70");
    // The whole text is known: its last token is read again.
    assert_eq!(s.set_text(&text).unwrap(), 149);
    let got: Vec<u32> = s.logits().unwrap().iter().map(|l| l.to_bits()).collect();
    assert_same(&got, &want, "the same text again");
}

#[test]
fn what_does_not_fit_is_an_error_with_both_numbers() {
    let bytes = tiny::container(Variant::Llama, Some(QuantType::Q8));
    let model = tiny::model(&bytes, Kernels::best());
    let mut s = session(&model, KvType::F16, 1, 64);
    let text = tiny::text(model.config(), 701);
    let err = s.extend(&text).unwrap_err().to_string();
    assert!(err.contains("701") && err.contains("700"), "{err}");
    assert!(s.tokens().is_empty() && s.logits().is_none());
    s.extend(&text[..700]).unwrap();
    let err = s.extend(&text[..1]).unwrap_err().to_string();
    assert!(err.contains("701") && err.contains("700"), "{err}");
    let err = s.set_text(&[TokenId(1 << 30)]).unwrap_err().to_string();
    assert!(err.contains("1073741824"), "{err}");
    assert!(s.extend(&[]).is_err());
    assert_eq!(s.tokens().len(), 700);
}
