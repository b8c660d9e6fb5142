//! lab
use chaski::{Model, ModelOptions, Session, SessionOptions, Specials, eval::log_normalizer};
use std::{path::Path, sync::Arc};
fn session(p: &str) -> Session {
    let m = Arc::new(Model::open(Path::new(p), &ModelOptions::default()).unwrap());
    Session::new(
        &m,
        &SessionOptions {
            context_len: Some(512),
            kv_type: chaski_quant::scalar::attention::KvType::F16,
            ubatch: 256,
            logit_rows: 256,
            ..Default::default()
        },
    )
    .unwrap()
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (reference, text, n): (&str, &str, usize) = (&a[1], &a[2], a[3].parse().unwrap());
    let m = Model::open(Path::new(reference), &ModelOptions::default()).unwrap();
    let tok = m.tokenizer().unwrap().tokenizer;
    let mut t = std::fs::read_to_string(text).unwrap();
    t.truncate((t.len() as f64 * 0.5) as usize / 1);
    let mut toks: Vec<_> = tok.bos().into_iter().collect();
    toks.extend(tok.encode(&t, Specials::AsText).unwrap());
    let chunks: Vec<_> = toks
        .chunks_exact(512)
        .take(n)
        .map(|c| {
            let mut c = c.to_vec();
            if let Some(b) = tok.bos() {
                c[0] = b;
            }
            c
        })
        .collect();
    let mut r = session(reference);
    let mut refs: Vec<Vec<half::f16>> = Vec::new();
    let mut norms = Vec::new();
    for c in &chunks {
        r.clear();
        r.extend_with(c, 256, &mut |p: usize, l: &[f32]| {
            if p < 511 {
                let z = log_normalizer(l);
                norms.push(z);
                refs.push(
                    l.iter()
                        .map(|&x| half::f16::from_f32((x as f64 - z) as f32))
                        .collect(),
                );
            }
        })
        .unwrap();
    }
    drop(r);
    for p in &a[4..] {
        let mut s = session(p);
        let (mut sum, mut sq, mut same, mut i) = (0.0f64, 0.0f64, 0usize, 0usize);
        for c in &chunks {
            s.clear();
            s.extend_with(c, 256, &mut |pos: usize, l: &[f32]| {
                if pos < 511 {
                    let z = log_normalizer(l) as f32;
                    let rf = &refs[i];
                    let mut k = 0.0f64;
                    let (mut ba, mut bb) = (0, 0);
                    let (mut ma, mut mb) = (f32::MIN, f32::MIN);
                    for (j, (a, b)) in rf.iter().zip(l).enumerate() {
                        let a = a.to_f32();
                        let b = *b - z;
                        if a > ma {
                            ma = a;
                            ba = j;
                        }
                        if b > mb {
                            mb = b;
                            bb = j;
                        }
                        if a > -20.0 {
                            k += (a.exp() * (a - b)) as f64;
                        }
                    }
                    sum += k;
                    sq += k * k;
                    same += (ba == bb) as usize;
                    i += 1;
                }
            })
            .unwrap();
        }
        let nn = i as f64;
        let mean = sum / nn;
        println!(
            "{:<40} {:>10} bytes  KLD {:.5} +- {:.5}  same top {:.2} %",
            p.rsplit('/').next().unwrap(),
            std::fs::metadata(p).unwrap().len(),
            mean,
            ((sq / nn - mean * mean) / nn).sqrt(),
            100.0 * same as f64 / nn
        );
    }
}
