use std::sync::Arc;

use chaski_models::forward::{Observed, Site};
use chaski_quant::QuantType;
use safetensors::Dtype;

use super::*;
use crate::{
    Calibration, ModelRunner, Products, RunnerError, Silent, inputs, mapping,
    options::ConvertOptions,
    pipeline::Limits,
    plan::plan,
    recipe::{Recipe, TypeOverride},
    source,
    tests::{checkpoint::Checkpoint, runner::Plain},
};

#[test]
fn exponents_are_a_part_of_the_logarithm_over_the_median() {
    let squares = [1.0, 1.0, 1.0, 3.9, 4.1, 63.0, 65.0, 0.26, 0.24, 1e30, 1e-30];
    let strong = |squares: &[f64]| exponents(squares, Strength::Strong);
    assert_eq!(strong(&squares), [0, 0, 0, 0, 1, 1, 2, 0, -1, MOST, -MOST]);
    let squares = [1.0, 1.0, 1.0, 15.9, 16.1, 4097.0, 0.07, 0.06, 1e30];
    let weak = exponents(&squares, Strength::Weak);
    assert_eq!(weak, [0, 0, 0, 0, 1, 2, 0, -1, MOST]);
    // Channels that are always zero are left alone, and do not count as strong or weak.
    assert_eq!(strong(&[0.0, 1.0, 64.0, 1.0, 1.0]), [0, 0, 2, 0, 0]);
    assert_eq!(strong(&[0.0, 0.0, 0.0, 64.0]), [0; 4]);
    assert_eq!(strong(&[f64::MIN_POSITIVE / 4.0; 3]), [0; 3]);
    assert_eq!(strong(&[]), [0; 0]);
}

/// Shows activations whose channels differ in strength by up to `2^24`, and runs nothing.
struct Uneven {
    config: Config,
    layer: usize,
}

impl ModelRunner for Uneven {
    fn observe(
        &mut self,
        _file: Vec<u8>,
        texts: &[usize],
        head: bool,
        observer: &mut dyn FnMut(usize, Observed<'_>),
    ) -> Result<Vec<f32>, RunnerError> {
        let c = &self.config;
        let sites = [
            (Site::Qkv, c.dim),
            (Site::AttnOutput, c.q_dim()),
            (Site::GateUp, c.dim),
            (Site::Down, c.ffn_dim),
            (Site::Head, c.dim),
        ];
        for (text, &len) in texts.iter().enumerate() {
            for (site, width) in sites {
                if site == Site::Head && !head {
                    continue;
                }
                let seed = site as usize + 7 * self.layer;
                let of = |i: usize| power_of_two(((i * 37 + seed * 11) % 25) as i32 - 12);
                let values: Vec<f32> = (0..len * width).map(|i| of(i % width)).collect();
                observer(text, Observed::new(site, 0, len, width, width, &values));
            }
        }
        self.layer += 1;
        Ok(vec![0.0; texts.iter().sum::<usize>() * c.dim])
    }

    fn products(&self) -> Arc<dyn Products> {
        Arc::new(Plain)
    }
}

/// A balanced source of `recipe`; `None` where there is nothing to balance.
fn balanced<'a>(source: &'a dyn Source, recipe: Recipe) -> Option<Balanced<'a>> {
    let plan = plan(source, &ConvertOptions::new(recipe)).unwrap();
    let text = Calibration::new("t", "ab ".repeat(300)).unwrap();
    let balance = Balance {
        source,
        plan: &plan,
        limits: Limits::new(1),
        progress: &Silent,
    };
    let config = plan.config.clone();
    balance
        .run(&text, &mut Uneven { config, layer: 0 })
        .unwrap()
}

/// All of a tensor, by rows of the file.
fn tensor(source: &dyn Source, role: Role, layer: Option<usize>) -> Vec<Vec<f32>> {
    let mapped = mapping::map(source).unwrap().tensors;
    let is_it = |m: &&Mapped| m.spec.role == role && m.spec.layer == layer;
    let index = mapped.iter().find(is_it).unwrap().source;
    let rows = source.tensors()[index].rows;
    // One by one: each row has to know its own factor.
    (0..rows)
        .map(|row| inputs::rows(source, index, row..row + 1).unwrap())
        .collect()
}

#[test]
fn every_product_stays_the_same_number() {
    for (dtype, tied) in [
        (Dtype::BF16, true),
        (Dtype::F16, false),
        (Dtype::F32, false),
    ] {
        let dir = Checkpoint::new(dtype, tied).write();
        let plain = source::open(dir.path()).unwrap();
        let balanced = balanced(&*plain, Recipe::named("q8").unwrap()).unwrap();
        let (a, b): (&dyn Source, &dyn Source) = (&*plain, &balanced);
        let config = a.config();
        let mut changed = 0;
        let mut same = |x: f32, y: f32, z: f32| {
            assert_eq!(x.to_bits(), y.to_bits());
            changed += usize::from(y != z);
        };
        let layers = (0..config.n_layers).map(Some);
        for layer in layers {
            for (norm, matrices) in [
                (Role::AttnNorm, &[Role::AttnQ, Role::AttnK, Role::AttnV][..]),
                (Role::FfnNorm, &[Role::FfnGate, Role::FfnUp]),
            ] {
                let gains = [tensor(a, norm, layer), tensor(b, norm, layer)];
                for &role in matrices {
                    let pairs = tensor(a, role, layer)
                        .into_iter()
                        .zip(tensor(b, role, layer));
                    // Rows of V and up are divided as a whole besides.
                    for (x, y) in pairs {
                        let factor = (x[0] * gains[0][0][0]) / (y[0] * gains[1][0][0]);
                        assert_eq!(factor.to_bits() << 9, 0, "no power of two");
                        assert!(factor == 1.0 || matches!(role, Role::AttnV | Role::FfnUp));
                        for (k, (x, y)) in x.iter().zip(&y).enumerate() {
                            same(
                                x * gains[0][0][k],
                                y * gains[1][0][k] * factor,
                                *x * gains[1][0][k],
                            );
                        }
                    }
                }
            }
            let first = |source: &dyn Source, role| -> Vec<f32> {
                tensor(source, role, layer)
                    .iter()
                    .map(|row| row[0])
                    .collect()
            };
            let column_0 = |source, norm| tensor(source, norm, layer)[0][0];
            let hidden = |source| (first(source, Role::FfnUp), column_0(source, Role::FfnNorm));
            let ((up, gain), (up_b, gain_b)) = (hidden(a), hidden(b));
            let pairs = tensor(a, Role::FfnDown, layer).into_iter();
            for (x, y) in pairs.zip(tensor(b, Role::FfnDown, layer)) {
                for i in 0..config.ffn_dim {
                    same(
                        up[i] * gain * x[i],
                        up_b[i] * gain_b * y[i],
                        up[i] * gain * y[i],
                    );
                }
            }
            let values = |source| (first(source, Role::AttnV), column_0(source, Role::AttnNorm));
            let ((v, gain), (v_b, gain_b)) = (values(a), values(b));
            let shared = config.n_heads / config.n_kv_heads;
            let pairs = tensor(a, Role::AttnOut, layer).into_iter();
            for (x, y) in pairs.zip(tensor(b, Role::AttnOut, layer)) {
                for i in 0..config.q_dim() {
                    let head = i / config.head_dim / shared;
                    let channel = head * config.head_dim + i % config.head_dim;
                    let (v, v_b) = (v[channel] * gain, v_b[channel] * gain_b);
                    same(v * x[i], v_b * y[i], v * y[i]);
                }
            }
        }
        if !tied {
            let gains = [
                tensor(a, Role::OutputNorm, None),
                tensor(b, Role::OutputNorm, None),
            ];
            let pairs = tensor(a, Role::Output, None).into_iter();
            for (x, y) in pairs.zip(tensor(b, Role::Output, None)) {
                for (k, (x, y)) in x.iter().zip(y).enumerate() {
                    same(x * gains[0][0][k], y * gains[1][0][k], x * gains[1][0][k]);
                }
            }
        }
        assert!(changed > 1000, "{changed}");
        let embeddings = |source| tensor(source, Role::TokenEmbd, None);
        assert_eq!(embeddings(a), embeddings(b));
    }
}

#[test]
fn coarse_types_are_balanced_weakly_and_floats_not_at_all() {
    let dir = Checkpoint::new(Dtype::BF16, true).write();
    let plain = source::open(dir.path()).unwrap();
    let recipe = |name| Recipe::named(name).unwrap();
    assert!(balanced(&*plain, recipe("bf16")).is_none());
    let with = |recipe: Recipe, role, qtype| {
        let other = [TypeOverride { role, qtype }];
        balanced(&*plain, recipe.with_overrides(&other).unwrap()).unwrap()
    };
    // The factors of a norm's gains.
    let factors = |source: &dyn Source, norm| -> Vec<f32> {
        let gains = |source| tensor(source, norm, Some(0)).concat();
        let pairs = gains(&*plain).into_iter().zip(gains(source));
        pairs.map(|(x, y)| y / x).collect()
    };
    let strong = balanced(&*plain, recipe("q8")).unwrap();
    let weak = balanced(&*plain, recipe("q4")).unwrap();
    let mixed = with(recipe("q8"), Role::AttnK, QuantType::Q6);
    assert_eq!(
        factors(&mixed, Role::AttnNorm),
        factors(&weak, Role::AttnNorm)
    );
    assert_eq!(
        factors(&mixed, Role::FfnNorm),
        factors(&strong, Role::FfnNorm)
    );
    assert_ne!(
        factors(&weak, Role::FfnNorm),
        factors(&strong, Role::FfnNorm)
    );
    // Exponents half as large, as far as they are not cut off.
    let pairs = factors(&weak, Role::FfnNorm).into_iter();
    for (weak, strong) in pairs.zip(factors(&strong, Role::FfnNorm)) {
        let (weak, strong) = (weak.log2(), strong.log2());
        assert!(weak.abs() <= strong.abs() && (2.0 * weak - strong).abs() <= 1.0);
    }
    // A float beside quantised matrices multiplies the same channels.
    let floats = with(recipe("q8"), Role::AttnV, QuantType::BF16);
    assert_eq!(
        factors(&floats, Role::AttnNorm),
        factors(&strong, Role::AttnNorm)
    );
    let floats = with(recipe("bf16"), Role::FfnDown, QuantType::Q8);
    assert!(factors(&floats, Role::AttnNorm).iter().all(|&f| f == 1.0));
    assert_ne!(
        tensor(&floats, Role::FfnUp, Some(0)),
        tensor(&*plain, Role::FfnUp, Some(0))
    );
}
