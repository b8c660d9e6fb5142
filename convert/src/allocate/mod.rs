//! Types for a number of bytes, or for a divergence: a knapsack over all matrices.
//!
//! What a matrix costs in each type is told by its own weights: some of its tiles are quantised to
//! every type, and their relative error is weighted by how much errors of this matrix matter, as it was
//! measured ([`Sensitivities`]), or else of its role ([`sensitivity`]). The sum over all matrices
//! predicts the model's mean KL divergence from its source; the [`Front`] has the best choice for every
//! number of bytes.

mod front;
mod measured;
mod sensitivity;

use std::{collections::BTreeMap, error::Error, fmt};

use chaski_models::tensors::Role;
use chaski_quant::{QuantType, TensorLayout, quantize::TileStats};
use serde::Serialize;

use crate::{
    error::ConvertError,
    inputs, mapping,
    options::ConvertOptions,
    pipeline::{
        Limits,
        schedule::{Segment, Shape, Work},
        texts::TokenizerForms,
        tiles::Tiler,
    },
    plan::{ConvertPlan, plan},
    recipe::Recipe,
    sensitivity::Sensitivities,
    source::Source,
};
use front::Front;

/// The quantised types that are chosen from, smallest first.
const TYPES: [QuantType; 6] = [
    QuantType::Q3,
    QuantType::Q4,
    QuantType::Q4H,
    QuantType::Q5,
    QuantType::Q6,
    QuantType::Q8,
];

/// The share of all weights that may stay floats of 16 bits: those that gain most for their bytes. Such a
/// matrix is twice as long to read as one in Q8, and its sums are of floats.
const FLOAT_SHARE: f64 = 0.05;

/// Tiles of a matrix that are quantised to see its error.
const SAMPLES: usize = 6;

/// Bytes of metadata that are reckoned with beside the chat template and the tokenizer's settings.
const METADATA_BYTES: u64 = 32 << 10;

/// Bytes of metadata for each tensor.
const METADATA_BYTES_PER_TENSOR: u64 = 64;

/// What types are to be chosen for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The most bytes of the whole file.
    Bytes(u64),
    /// The largest mean KL divergence from the source.
    Kld {
        /// What was asked for, in nats.
        kld: f64,
        /// How many times its prediction a divergence of this model was found to be; 1 where none
        /// was measured.
        correction: f64,
    },
}

/// A point of the front.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FrontPoint {
    /// Bytes of the whole file.
    pub bytes: u64,
    /// The mean KL divergence that is predicted, in nats.
    pub kld: f64,
}

/// Types that were chosen for a model.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// The recipe to convert with.
    pub recipe: Recipe,
    /// The bytes of the whole file, but for some kilobytes of metadata; at most those asked for.
    pub bytes: u64,
    /// The mean KL divergence that is predicted.
    pub kld: f64,
    /// How many matrices have each type.
    pub types: BTreeMap<QuantType, usize>,
    /// Every best choice, from the smallest file to the largest.
    pub front: Vec<FrontPoint>,
}

/// Why there are no types for a target.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AllocateError {
    /// Even the smallest types take more bytes.
    TooSmall {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes of the smallest file.
        smallest: u64,
    },
    /// Even the largest types diverge more.
    TooStrict {
        /// What was asked for.
        kld: f64,
        /// What the largest types are predicted to come to.
        least: f64,
    },
    /// The divergence asked for is no positive number.
    Kld {
        /// What was asked for.
        kld: f64,
    },
    /// The sensitivities are not this model's.
    NotMeasured {
        /// The file's name of a matrix that they have nothing of.
        tensor: String,
    },
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { bytes, smallest } => write!(
                f,
                "no file of this model has {bytes} bytes: the smallest one takes {smallest}"
            ),
            Self::TooStrict { kld, least } => write!(
                f,
                "a mean divergence of {kld} is below what the largest types are predicted to reach, \
                 {least:.5}: use --quant f16 or bf16"
            ),
            Self::Kld { kld } => write!(
                f,
                "a mean divergence of {kld}: expected a positive number, as 0.02 is"
            ),
            Self::NotMeasured { tensor } => {
                write!(
                    f,
                    "the sensitivity of tensor `{tensor}` was not measured: measure this source's, \
                     those given are another model's"
                )
            }
        }
    }
}

impl Error for AllocateError {}

/// Matrices that have one type.
#[derive(Debug)]
struct Unit {
    /// Indices of the plan's tensors.
    tensors: Vec<usize>,
    role: Role,
    layer: Option<usize>,
    n_weights: u64,
    /// What is chosen from, from the smallest on.
    types: Vec<QuantType>,
    /// Bytes and predicted divergence of each of the types.
    options: Vec<(u64, f64)>,
}

/// Chooses a type for every matrix of `source` by what errors of its role cost other models.
///
/// `options`: as for the conversion; its recipe is not used.
///
/// # Errors
///
/// The target cannot be reached; the source cannot be read.
pub fn allocate(
    source: &dyn Source,
    options: &ConvertOptions,
    target: Target,
) -> Result<Allocation, ConvertError> {
    choose(source, options, None, target)
}

/// As [`allocate`], by what errors of each matrix were [`measure`](crate::measure)d to cost this model.
///
/// # Errors
///
/// The target cannot be reached; the source cannot be read; the sensitivities are another model's.
pub fn allocate_with(
    source: &dyn Source,
    options: &ConvertOptions,
    sensitivities: &Sensitivities,
    target: Target,
) -> Result<Allocation, ConvertError> {
    choose(source, options, Some(sensitivities), target)
}

fn choose(
    source: &dyn Source,
    options: &ConvertOptions,
    measured: Option<&Sensitivities>,
    target: Target,
) -> Result<Allocation, ConvertError> {
    if let Target::Kld { kld, .. } = target
        && !(kld > 0.0 && kld.is_finite())
    {
        return Err(AllocateError::Kld { kld }.into());
    }
    let smallest = ConvertOptions {
        recipe: recipe(&[], &[], measured, target),
        ..options.clone()
    };
    let start = plan(source, &smallest)?;
    let mut units = units(source, &start, options, measured)?;
    keep_best_floats(&mut units);
    let all: Vec<_> = units.iter().map(|u| u.options.clone()).collect();
    let front = Front::new(&all);

    let tokenizer = TokenizerForms::read(source)?;
    let sections: Vec<u64> = tokenizer
        .iter()
        .flat_map(|t| t.sections().map(|s| s.bytes.len() as u64))
        .collect();
    let texts = source.chat_template().map_or(0, str::len)
        + tokenizer.as_ref().map_or(0, TokenizerForms::config_len);
    let metadata =
        METADATA_BYTES + 2 * texts as u64 + METADATA_BYTES_PER_TENSOR * start.tensors.len() as u64;
    let file_len = |plan: &ConvertPlan| plan.inner.data.file_len(&sections, metadata);
    // What a file has beside the matrices: vectors, alignment, texts.
    let matrices: u64 = (0..start.tensors.len())
        .filter(|&i| matches!(start.inner.work[i].shape, Shape::Matrix { .. }))
        .map(|i| start.tensors[i].bytes)
        .sum();
    let beside = file_len(&start) - matrices;

    let wanted = match target {
        Target::Bytes(bytes) => bytes,
        Target::Kld { kld, correction } => {
            let least = correction * front.totals().last().map_or(0.0, |t| t.cost);
            let too_strict = AllocateError::TooStrict { kld, least };
            front.bytes_for(kld / correction).ok_or(too_strict)? + beside
        }
    };
    // Alignment differs from choice to choice by some kilobytes: what is too much is taken off.
    let mut budget = wanted;
    loop {
        let choices = budget.checked_sub(beside).and_then(|b| front.within(b));
        let Some(choices) = choices else {
            return Err(AllocateError::TooSmall {
                bytes: wanted,
                smallest: front.start().bytes + beside,
            }
            .into());
        };
        let recipe = recipe(&units, &choices, measured, target);
        let chosen = ConvertOptions {
            recipe: recipe.clone(),
            ..options.clone()
        };
        let bytes = file_len(&plan(source, &chosen)?);
        if let Target::Bytes(wanted) = target
            && bytes > wanted
        {
            budget -= bytes - wanted;
            continue;
        }
        let mut types = BTreeMap::new();
        for (unit, &choice) in units.iter().zip(&choices) {
            *types.entry(unit.types[choice]).or_default() += unit.tensors.len();
        }
        let point = |t: front::Total| FrontPoint {
            bytes: t.bytes + beside,
            kld: t.cost,
        };
        return Ok(Allocation {
            recipe,
            bytes,
            kld: units
                .iter()
                .zip(&choices)
                .map(|(u, &c)| u.options[c].1)
                .sum(),
            types,
            front: front.totals().into_iter().map(point).collect(),
        });
    }
}

/// The units of a plan with the bytes and the predicted divergence of every type.
fn units(
    source: &dyn Source,
    plan: &ConvertPlan,
    options: &ConvertOptions,
    measured: Option<&Sensitivities>,
) -> Result<Vec<Unit>, ConvertError> {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let threads = options
        .threads
        .map_or_else(available, std::num::NonZeroUsize::get);
    let pool = Limits::new(threads).pool()?;
    let specs = mapping::map(source)?.tensors;
    let n_layers = plan.config.n_layers;
    let gains = vector(source, Role::OutputNorm, &specs)?;
    let mut units = Vec::new();
    let mut next = 0;
    while next < plan.tensors.len() {
        let first = next;
        next += 1;
        let Shape::Matrix { paired, .. } = plan.inner.work[first].shape else {
            continue;
        };
        next += usize::from(paired);
        let tensors: Vec<usize> = (first..next).collect();
        let types: Vec<_> = TYPES.into_iter().chain([half(plan, &tensors)]).collect();
        let mut choices = vec![(0, 0.0); types.len()];
        let mut errors_of = vec![0.0; types.len()];
        for &tensor in &tensors {
            let spec = &specs[tensor].spec;
            let share = sensitivity::of(spec.role, spec.layer, n_layers);
            let costs = errors(source, plan, tensor, &types, &pool)?;
            for (i, (cost, qtype)) in costs.iter().zip(&types).enumerate() {
                let activations = sensitivity::activations(*qtype);
                choices[i].0 += cost.bytes;
                errors_of[i] += cost.relative / tensors.len() as f64;
                choices[i].1 += match spec.role {
                    Role::TokenEmbd => share * cost.relative,
                    _ => share * (cost.relative + activations),
                };
                if is_output(plan, spec.role) {
                    let mean_sq = cost.mean_sq + activations * cost.mean_weight_sq;
                    choices[i].1 += sensitivity::of_output(mean_sq, &gains);
                }
            }
        }
        if let Some(measured) = measured {
            let spec = &specs[first].spec;
            let costs = measured::costs(measured, plan, spec, &types, &errors_of)?;
            choices
                .iter_mut()
                .zip(costs)
                .for_each(|(c, cost)| c.1 = cost);
        }
        units.push(Unit {
            role: specs[first].spec.role,
            layer: specs[first].spec.layer,
            n_weights: tensors.iter().map(|&t| plan.tensors[t].n_weights()).sum(),
            tensors,
            types,
            options: choices,
        });
    }
    Ok(units)
}

/// Whether a role is the output matrix, also where it is that of the embeddings.
fn is_output(plan: &ConvertPlan, role: Role) -> bool {
    role == Role::Output || role == Role::TokenEmbd && plan.config.tied_embeddings
}

/// The float type of 16 bits for matrices: what they have in the source, or bf16, which is in range
/// whatever they hold.
fn half(plan: &ConvertPlan, tensors: &[usize]) -> QuantType {
    let is_f16 = |&t: &usize| plan.tensors[t].source_type == "F16";
    match tensors.iter().all(is_f16) {
        true => QuantType::F16,
        false => QuantType::BF16,
    }
}

/// Takes the floats off the choices of all units but those that gain most by them for their bytes, up to
/// [`FLOAT_SHARE`] of all weights.
fn keep_best_floats(units: &mut [Unit]) {
    let gain = |unit: &Unit| match unit.options[..] {
        [.., (bytes, cost), (float_bytes, float_cost)] => {
            (cost - float_cost) / float_bytes.saturating_sub(bytes).max(1) as f64
        }
        _ => 0.0,
    };
    let mut order: Vec<usize> = (0..units.len()).collect();
    // Stable: of equal gains the earlier unit comes first.
    order.sort_by(|&a, &b| gain(&units[b]).total_cmp(&gain(&units[a])));
    let all: u64 = units.iter().map(|u| u.n_weights).sum();
    let mut left = (all as f64 * FLOAT_SHARE) as u64;
    for i in order {
        let unit = &mut units[i];
        if unit.n_weights <= left {
            left -= unit.n_weights;
        } else {
            unit.types.pop();
            unit.options.pop();
        }
    }
}

/// The vector of `role`; empty where the model has none.
fn vector(
    source: &dyn Source,
    role: Role,
    tensors: &[mapping::Mapped],
) -> Result<Vec<f32>, ConvertError> {
    let Some(tensor) = tensors.iter().find(|t| t.spec.role == role) else {
        return Ok(Vec::new());
    };
    inputs::rows(source, tensor.source, 0..1)
}

/// What a matrix costs in one type.
struct Cost {
    bytes: u64,
    /// Its error relative to its weights, of squares.
    relative: f64,
    /// The mean square of a weight's error.
    mean_sq: f64,
    /// The mean square of a weight.
    mean_weight_sq: f64,
}

/// What a matrix costs in each of `types`, by some of its tiles.
fn errors(
    source: &dyn Source,
    plan: &ConvertPlan,
    tensor: usize,
    types: &[QuantType],
    pool: &rayon::ThreadPool,
) -> Result<Vec<Cost>, ConvertError> {
    let work = &plan.inner.work[tensor];
    let Shape::Matrix { layout, .. } = work.shape else {
        return Ok(Vec::new());
    };
    let in_type = |qtype| {
        let layout = TensorLayout::grouped(qtype, layout.rows(), layout.cols(), layout.row_group());
        layout.map_err(|cause| ConvertError::Layout {
            tensor: plan.tensors[tensor].name.clone(),
            cause,
        })
    };
    let mut tiles = Vec::new();
    let n = layout.n_tiles();
    for i in 0..SAMPLES.min(n) {
        // The rows of a head whose halves alternate are needed as a whole.
        let unit = work.unit();
        let tile = i * n / SAMPLES.min(n) / unit * unit;
        if tiles.last() != Some(&tile) {
            tiles.push(tile);
        }
    }
    let mut all = Vec::new();
    for &qtype in types {
        let layout = in_type(qtype)?;
        // A tensor of its own, so that a pair's other half is not needed.
        let mut tensors = plan.tensors[tensor..=tensor].to_vec();
        tensors[0].qtype = qtype;
        let alone = [Work {
            shape: Shape::Matrix {
                layout,
                paired: false,
            },
            ..*work
        }];
        let tiler = Tiler::new(source, &tensors, &alone, pool);
        let mut stats = [TileStats::default()];
        let (mut raw, mut out) = (Vec::new(), Vec::new());
        for &tile in &tiles {
            let range = tile..(tile + alone[0].unit()).min(n);
            let segment = Segment {
                tensor: 0,
                rows: alone[0].rows(&range),
                tiles: range,
                paired: false,
            };
            raw.clear();
            source.read_raw(tensors[0].source, segment.rows.clone(), &mut raw)?;
            tiler.run(&vec![segment], &raw, &mut out, &mut stats)?;
        }
        let TileStats {
            n, sum_sq, err_sq, ..
        } = stats[0];
        let of = |all: f64| if err_sq == 0.0 { 0.0 } else { err_sq / all };
        all.push(Cost {
            bytes: layout.bytes() as u64,
            relative: of(sum_sq),
            mean_sq: of(n as f64),
            mean_weight_sq: sum_sq / n.max(1) as f64,
        });
    }
    Ok(all)
}

/// The recipe that a choice for each unit is.
fn recipe(
    units: &[Unit],
    choices: &[usize],
    measured: Option<&Sensitivities>,
    target: Target,
) -> Recipe {
    let chosen = |(unit, &choice): (&Unit, &usize)| unit.types[choice];
    let mut counts: BTreeMap<Role, BTreeMap<QuantType, usize>> = BTreeMap::new();
    for (unit, choice) in units.iter().zip(choices) {
        for role in unit.roles() {
            let of_role = counts.entry(role).or_default();
            *of_role.entry(chosen((unit, choice))).or_default() += 1;
        }
    }
    // Of a role's types the most frequent one, of two as frequent ones the larger, stands for it.
    let bits = |qtype: QuantType| qtype.bits_per_weight();
    let most = |n: &BTreeMap<QuantType, usize>| {
        let larger = |a: &(&QuantType, &usize), b: &(&QuantType, &usize)| {
            a.1.cmp(b.1).then(bits(*a.0).total_cmp(&bits(*b.0)))
        };
        n.iter()
            .max_by(larger)
            .map_or(TYPES[0], |(&qtype, _)| qtype)
    };
    let mut types: BTreeMap<Role, QuantType> =
        counts.iter().map(|(&role, n)| (role, most(n))).collect();
    for role in Role::ALL.into_iter().filter(|r| !r.is_vector()) {
        types.entry(role).or_insert(TYPES[0]);
    }
    let mut layers = BTreeMap::new();
    for (unit, choice) in units.iter().zip(choices) {
        let Some(layer) = unit.layer else { continue };
        let qtype = chosen((unit, choice));
        for role in unit.roles() {
            if types.get(&role) != Some(&qtype) {
                layers.insert((role, layer), qtype);
            }
        }
    }
    let target = match target {
        Target::Bytes(bytes) => format!("size {bytes}"),
        Target::Kld { kld, .. } => format!("max-kld {kld}"),
    };
    let sensitivities = match measured {
        Some(measured) => format!(
            "of matrices, measured on {} positions",
            measured.positions()
        ),
        None => "of roles".to_owned(),
    };
    Recipe::mixed(types, layers, target, sensitivities)
}

impl Unit {
    fn roles(&self) -> impl Iterator<Item = Role> + use<> {
        let pair = (self.role == Role::FfnGate).then_some(Role::FfnUp);
        [self.role].into_iter().chain(pair)
    }
}

impl From<AllocateError> for ConvertError {
    fn from(cause: AllocateError) -> Self {
        Self::Allocate(cause)
    }
}
