use std::{ops::ControlFlow, sync::Arc};

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
fn exponents_are_half_the_logarithm_over_the_median() {
    let magnitudes = [1.0, 1.0, 1.0, 1.99, 2.01, 7.9, 8.1, 0.51, 0.49, 1e30, 1e-30];
    let want = [0, 0, 0, 0, 1, 1, 2, 0, -1, MOST, -MOST];
    assert_eq!(exponents(&magnitudes), want);
    // Channels that are always zero are left alone, and do not count as strong or weak.
    assert_eq!(exponents(&[0.0, 1.0, 8.0, 1.0, 1.0]), [0, 0, 2, 0, 0]);
    assert_eq!(exponents(&[0.0, 0.0, 0.0, 64.0]), [0; 4]);
    assert_eq!(exponents(&[f64::MIN_POSITIVE / 4.0; 3]), [0; 3]);
    assert_eq!(exponents(&[]), [0; 0]);
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

    fn run(&mut self, _file: Vec<u8>, _texts: &[usize]) -> Result<Vec<f32>, RunnerError> {
        Err("nothing is run without being looked at".into())
    }

    fn divergences(
        &mut self,
        _heads: Vec<Vec<u8>>,
        _reference: &[f32],
        _variants: &[(usize, &[f32])],
        _progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Vec<f64>>, RunnerError> {
        Err("there are no logits".into())
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
fn only_what_enters_fine_types_alone_is_balanced() {
    let dir = Checkpoint::new(Dtype::BF16, true).write();
    let plain = source::open(dir.path()).unwrap();
    let recipe = |name| Recipe::named(name).unwrap();
    assert!(balanced(&*plain, recipe("q4")).is_none());
    assert!(balanced(&*plain, recipe("bf16")).is_none());
    let with = |recipe: Recipe, role, qtype| {
        let other = [TypeOverride { role, qtype }];
        balanced(&*plain, recipe.with_overrides(&other).unwrap()).unwrap()
    };
    let same =
        |source: &dyn Source, role| tensor(&*plain, role, Some(0)) == tensor(source, role, Some(0));
    let coarse = with(recipe("q8"), Role::AttnK, QuantType::Q6);
    for role in [Role::AttnNorm, Role::AttnQ, Role::AttnK] {
        assert!(same(&coarse, role));
    }
    for role in [Role::AttnOut, Role::FfnNorm, Role::FfnDown] {
        assert!(!same(&coarse, role));
    }
    // Of values the rows only: their columns are the norm's channels.
    let values = |source| tensor(source, Role::AttnV, Some(0));
    for (x, y) in values(&*plain).iter().zip(values(&coarse)) {
        let factor = y[0] / x[0];
        assert!(x.iter().zip(&y).all(|(x, y)| x * factor == *y));
    }
    // Rows in F16, which does not hold them times any factor.
    for (makers, norm, after) in [
        (&[Role::AttnV][..], Role::FfnNorm, Role::AttnOut),
        (&[Role::FfnGate, Role::FfnUp], Role::AttnNorm, Role::FfnDown),
    ] {
        let in_f16 = |&role: &Role| TypeOverride {
            role,
            qtype: QuantType::F16,
        };
        let floats: Vec<TypeOverride> = makers.iter().map(in_f16).collect();
        let floats = recipe("q8").with_overrides(&floats).unwrap();
        let floats = balanced(&*plain, floats).unwrap();
        assert!(makers.iter().all(|&maker| same(&floats, maker)));
        assert!(same(&floats, after) && !same(&floats, norm));
    }
    // A float beside quantised matrices multiplies the same channels; floats alone are left.
    let floats = with(recipe("q8"), Role::AttnV, QuantType::BF16);
    assert!(!same(&floats, Role::AttnNorm));
    let floats = with(recipe("bf16"), Role::FfnDown, QuantType::Q8);
    assert!(same(&floats, Role::AttnNorm) && !same(&floats, Role::FfnUp));
}

#[test]
fn a_weight_that_its_factor_makes_infinite_is_not_the_sources() {
    let dir = Checkpoint::new(Dtype::F32, true).write();
    let plain = source::open(dir.path()).unwrap();
    let mut balanced = Balanced::new(&*plain);
    let at = |name: &str| {
        let tensors = plain.tensors();
        tensors.iter().position(|t| t.name.contains(name)).unwrap()
    };
    let (down, up) = (at("layers.0.mlp.down_proj"), at("layers.0.mlp.up_proj"));
    balanced.scale_cols(down, &vec![MOST; plain.tensors()[down].cols]);
    let error = |tensor: usize, value| ConvertError::NotFinite {
        tensor: plain.tensors()[tensor].name.clone(),
        row: 1,
        col: 2,
        value,
    };
    let said = balanced
        .name_overflow(error(down, f32::INFINITY))
        .to_string();
    assert!(
        said.contains("without --calibrate") && said.contains("down_proj"),
        "{said}"
    );
    for same in [error(up, f32::INFINITY), error(down, f32::NAN)] {
        let said = balanced.name_overflow(same).to_string();
        assert!(said.contains("cannot compute anything"), "{said}");
    }
}
