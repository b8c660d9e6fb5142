//! What each type costs a matrix whose sensitivity was measured.

use chaski_models::tensors::{Role, TensorSpec};
use chaski_quant::QuantType;

use super::{AllocateError, is_output, sensitivity::activations};
use crate::{
    error::ConvertError,
    plan::ConvertPlan,
    sensitivity::{PROBE, Sensitivities},
};

/// The divergence that a matrix is predicted to make in each of `types`, among which is [`PROBE`]: what it
/// was measured to make in that, times the ratio of the errors.
///
/// * `spec`: the matrix, or the first one of those that have one type.
/// * `errors`: its relative error (of squares) in each type.
///
/// # Errors
///
/// It was not measured.
pub(super) fn costs(
    measured: &Sensitivities,
    plan: &ConvertPlan,
    spec: &TensorSpec,
    types: &[QuantType],
    errors: &[f64],
) -> Result<Vec<f64>, ConvertError> {
    let of = |role| {
        let found = measured.of(role, spec.layer);
        let tensor = || spec.name.clone();
        found.ok_or_else(|| AllocateError::NotMeasured { tensor: tensor() })
    };
    let probe = types.iter().position(|&t| t == PROBE).unwrap_or(0);
    // Nothing is multiplied with a row of embeddings.
    let rows = match spec.role {
        Role::TokenEmbd => ratios(errors, probe),
        _ => vec![0.0; errors.len()],
    };
    let products = errors.iter().zip(types).map(|(e, &t)| e + activations(t));
    let products = ratios(&products.collect::<Vec<_>>(), probe);
    let (of_rows, of_products) = match spec.role {
        Role::TokenEmbd if is_output(plan, spec.role) => (of(Role::TokenEmbd)?, of(Role::Output)?),
        Role::TokenEmbd => (of(Role::TokenEmbd)?, 0.0),
        role => (0.0, of(role)?),
    };
    let costs = rows.iter().zip(&products);
    Ok(costs.map(|(r, p)| of_rows * r + of_products * p).collect())
}

/// Errors as multiples of that of the probe; where that is none, nothing is known to be wrong.
fn ratios(errors: &[f64], probe: usize) -> Vec<f64> {
    let one = errors[probe];
    let ratio = |e: &f64| if one > 0.0 { e / one } else { 0.0 };
    errors.iter().map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_multiples_of_the_probes() {
        assert_eq!(ratios(&[0.5, 0.25, 0.0], 1), [2.0, 1.0, 0.0]);
        // A matrix that loses nothing in the probe's type: nothing is expected of the others.
        assert_eq!(ratios(&[0.0, 0.0], 0), [0.0, 0.0]);
    }
}
