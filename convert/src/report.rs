//! What a conversion did: sizes and errors.

use std::collections::BTreeMap;

use chaski_models::{metadata::RoleError, tensors::Role};
use chaski_quant::{QuantType, quantize::TileStats};
use serde::Serialize;

use crate::{
    note::Note,
    plan::{ConvertPlan, JSON_SCHEMA, PlannedTensor, RecipeUse, SourceInfo, name_of_type},
};

/// How many tensors [`Report::worst`] has at most.
const N_WORST: usize = 8;

/// What a conversion did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`JSON_SCHEMA`].
    pub schema: u32,
    /// Where the weights came from.
    pub source: SourceInfo,
    /// The recipe that was followed.
    pub recipe: RecipeUse,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Weights of all tensors.
    pub n_weights: u64,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of the file's tensors, padding included.
    pub data_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// As [`ConvertPlan::bits_per_weight`].
    pub bits_per_weight: f64,
    /// Error of each role and type, in file order.
    pub roles: Vec<RoleReport>,
    /// The tensors with the largest relative error, the worst first.
    pub worst: Vec<TensorReport>,
    /// What was decided.
    pub notes: Vec<Note>,
    /// Threads that quantised.
    pub threads: usize,
    /// Wall time.
    pub seconds: f64,
}

/// How far the stored weights are from the source's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WeightError {
    /// Root mean square of the differences, relative to that of the weights:
    /// `sqrt(sum (w - stored)^2 / sum w^2)`.
    pub relative_rms: f64,
    /// The same in dB, `-20 log10(relative_rms)`; `None` where nothing was lost.
    pub sqnr_db: Option<f64>,
    /// Largest difference.
    pub max_abs_err: f32,
}

/// All tensors of a role that have one type.
#[derive(Clone, Debug, Serialize)]
pub struct RoleReport {
    /// The role.
    pub role: Role,
    /// The type in the file.
    #[serde(serialize_with = "name_of_type")]
    pub qtype: QuantType,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Weights of all of them.
    pub n_weights: u64,
    /// Their bytes in the file.
    pub bytes: u64,
    /// `8 * bytes / n_weights`.
    pub bits_per_weight: f64,
    /// Their error.
    #[serde(flatten)]
    pub error: WeightError,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name in the file.
    pub name: String,
    /// The type in the file.
    #[serde(serialize_with = "name_of_type")]
    pub qtype: QuantType,
    /// Its number of weights.
    pub n_weights: u64,
    /// Its error.
    #[serde(flatten)]
    pub error: WeightError,
}

impl WeightError {
    fn of(stats: &TileStats) -> Self {
        let nmse = if stats.err_sq == 0.0 {
            0.0
        } else {
            stats.err_sq / stats.sum_sq
        };
        Self {
            relative_rms: nmse.sqrt(),
            sqnr_db: (nmse > 0.0).then(|| -10.0 * nmse.log10()),
            max_abs_err: stats.max_abs_err,
        }
    }
}

/// The sums of each role, for the record in the file.
pub(crate) fn role_errors(
    tensors: &[PlannedTensor],
    stats: &[TileStats],
) -> BTreeMap<Role, RoleError> {
    let mut roles = BTreeMap::<Role, RoleError>::new();
    for (tensor, stats) in tensors.iter().zip(stats) {
        let sum = roles.entry(tensor.role).or_default();
        sum.n += stats.n;
        sum.bytes += tensor.bytes;
        sum.sum_sq += stats.sum_sq;
        sum.err_sq += stats.err_sq;
        sum.max_abs_err = sum.max_abs_err.max(stats.max_abs_err);
    }
    roles
}

/// The report of a finished conversion.
pub(crate) fn report(
    plan: &ConvertPlan,
    stats: &[TileStats],
    notes: Vec<Note>,
    file_bytes: u64,
    threads: usize,
    seconds: f64,
) -> Report {
    let mut kinds: Vec<(Role, QuantType)> =
        plan.tensors.iter().map(|t| (t.role, t.qtype)).collect();
    kinds.sort();
    kinds.dedup();
    let roles = kinds.into_iter().map(|(role, qtype)| {
        let mut sum = TileStats::default();
        let (mut n_tensors, mut bytes) = (0, 0);
        let of_kind = |t: &PlannedTensor| t.role == role && t.qtype == qtype;
        for (t, stats) in plan.tensors.iter().zip(stats).filter(|(t, _)| of_kind(t)) {
            sum.merge(stats);
            n_tensors += 1;
            bytes += t.bytes;
        }
        RoleReport {
            role,
            qtype,
            n_tensors,
            n_weights: sum.n,
            bytes,
            bits_per_weight: 8.0 * bytes as f64 / sum.n as f64,
            error: WeightError::of(&sum),
        }
    });
    let mut worst: Vec<_> = plan
        .tensors
        .iter()
        .zip(stats)
        .filter(|(_, s)| s.err_sq > 0.0)
        .collect();
    // The sort keeps the file's order among equals.
    let relative = |s: &TileStats| s.err_sq / s.sum_sq;
    worst.sort_by(|(_, a), (_, b)| relative(b).total_cmp(&relative(a)));
    let worst = worst.into_iter().take(N_WORST).map(|(t, s)| TensorReport {
        name: t.name.clone(),
        qtype: t.qtype,
        n_weights: s.n,
        error: WeightError::of(s),
    });
    Report {
        schema: JSON_SCHEMA,
        source: plan.source.clone(),
        recipe: plan.recipe.clone(),
        n_tensors: plan.tensors.len(),
        n_weights: plan.n_weights,
        source_bytes: plan.source_bytes,
        data_bytes: plan.data_bytes,
        file_bytes,
        bits_per_weight: plan.bits_per_weight,
        roles: roles.collect(),
        worst: worst.collect(),
        notes,
        threads,
        seconds,
    }
}
