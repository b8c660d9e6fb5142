use super::*;
use crate::testing::{Rng, Variant, weights};

fn model(variant: Variant, kv_type: KvType) -> Reference {
    let seed = variant.seed();
    Reference::new(&variant.config(), kv_type, |spec| {
        TensorData::Floats(weights(seed, spec))
    })
}

fn tokens(n: usize, vocab_size: usize) -> Vec<TokenId> {
    let mut rng = Rng::new(7);
    (0..n)
        .map(|_| TokenId(rng.below(vocab_size as u64) as u32))
        .collect()
}

fn rows(seq: usize, start: usize, tokens: &[TokenId]) -> Vec<Row> {
    let row = |(i, &token)| Row {
        seq,
        pos: start + i,
        token,
        logits: true,
    };
    tokens.iter().enumerate().map(row).collect()
}

fn forward(model: &mut Reference, rows: &[Row]) -> Vec<f32> {
    let mut logits = vec![f32::NAN; crate::forward::n_logits(rows) * model.config.vocab_size];
    model.forward(rows, &mut logits).unwrap();
    logits
}

#[test]
fn prefill_equals_decodes_and_any_split_for_every_kind_of_cache() {
    let n = 70;
    for (variant, kv_type) in [
        (Variant::Llama, KvType::F16),
        (Variant::Mistral, KvType::F32),
        (Variant::Qwen2Window, KvType::Q8),
        (Variant::Qwen3, KvType::F16),
    ] {
        let mut model = model(variant, kv_type);
        let tokens = tokens(n, model.config.vocab_size);
        let want = model.logits(&tokens).unwrap();
        for seq in 1..4 {
            let step = [1, 7, 65][seq - 1];
            let starts = (0..n).step_by(step);
            let got: Vec<_> = starts
                .flat_map(|s| {
                    let some = &tokens[s..(s + step).min(n)];
                    forward(&mut model, &rows(seq, s, some))
                })
                .collect();
            assert!(got == want, "{variant:?}, steps of {step}");
        }
    }
}

#[test]
fn sequences_in_one_call_do_not_see_each_other() {
    let mut model = model(Variant::Qwen2, KvType::F16);
    let (a, b) = (tokens(9, 320), tokens(18, 320)[9..].to_vec());
    let (want_a, want_b) = (model.logits(&a).unwrap(), model.logits(&b).unwrap());
    let pairs = rows(1, 0, &a).into_iter().zip(rows(2, 0, &b));
    let mixed: Vec<_> = pairs.flat_map(|(a, b)| [a, b]).collect();
    let got = forward(&mut model, &mixed);
    for (i, pair) in got.chunks_exact(2 * 320).enumerate() {
        assert_eq!(pair[..320], want_a[i * 320..][..320]);
        assert_eq!(pair[320..], want_b[i * 320..][..320]);
    }
}

#[test]
fn going_back_forgets_what_came_after() {
    let mut model = model(Variant::Mistral, KvType::F16);
    let tokens = tokens(40, 320);
    let want = model.logits(&tokens).unwrap();
    // Another continuation from position 30 on, then the first one again.
    let other: Vec<_> = tokens[30..].iter().rev().copied().collect();
    forward(&mut model, &rows(0, 30, &other));
    let got = forward(&mut model, &rows(0, 30, &tokens[30..]));
    assert_eq!(got, want[30 * 320..]);
    let error = model
        .forward(&rows(0, 41, &tokens[..1]), &mut [0.0; 320])
        .unwrap_err();
    assert_eq!(
        error,
        BackendError::Position {
            row: 0,
            pos: 41,
            least: 0,
            most: 40
        }
    );
}

#[test]
fn only_the_logits_that_are_wanted_come_out() {
    let mut model = model(Variant::Llama, KvType::F16);
    let tokens = tokens(6, 320);
    let want = model.logits(&tokens).unwrap();
    let mut some = rows(1, 0, &tokens);
    some.iter_mut()
        .for_each(|r| r.logits = r.pos == 2 || r.pos == 5);
    let got = forward(&mut model, &some);
    assert_eq!(got[..320], want[2 * 320..][..320]);
    assert_eq!(got[320..], want[5 * 320..]);
    some.iter_mut().for_each(|r| r.logits = false);
    some.iter_mut().for_each(|r| r.seq = 2);
    assert!(forward(&mut model, &some).is_empty());
}

#[test]
fn float_tiles_and_floats_are_the_same_model() {
    let variant = Variant::LlamaUntied;
    let config = variant.config();
    let tokens = tokens(5, 320);
    let want = model(variant, KvType::F16).logits(&tokens).unwrap();
    for qtype in [QuantType::F32, QuantType::F16, QuantType::BF16] {
        let mut model = Reference::new(&config, KvType::F16, |spec| {
            let floats = weights(variant.seed(), spec);
            if spec.vector {
                return TensorData::Floats(floats);
            }
            TensorData::Tiles(qtype, pack_floats(&spec.layout(qtype).unwrap(), &floats))
        });
        assert!(model.logits(&tokens).unwrap() == want, "{qtype}");
    }
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    let variant = Variant::Llama;
    let mut model = Reference::new(&variant.config(), KvType::F32, |spec| {
        let mut floats = weights(variant.seed(), spec);
        if spec.role == Role::OutputNorm {
            floats[3] = f32::INFINITY;
        }
        TensorData::Floats(floats)
    });
    let error = model.logits(&tokens(2, 320)).unwrap_err();
    assert!(
        matches!(error, BackendError::NotFinite { row: 0, .. }),
        "{error}"
    );
}
