//! How much errors of a role matter, where nothing was measured on the model itself.

use chaski_models::tensors::Role;

/// The mean KL divergence that a relative error (of squares) of 1 of all matrices of a role would
/// make if it went on growing as it does for small errors.
///
/// Measured by quantising one role after the other to Q4 and leaving the others at f16; see
/// docs/quantiser.md. Of the embeddings, what they cost as embeddings.
const ROLES: [(Role, f64); 8] = [
    (Role::TokenEmbd, 1.0),
    (Role::AttnQ, 2.3),
    (Role::AttnK, 2.0),
    (Role::AttnV, 4.9),
    (Role::AttnOut, 1.9),
    (Role::FfnGate, 3.3),
    (Role::FfnUp, 3.3),
    (Role::FfnDown, 6.4),
];

/// The factor of a matrix's relative error: of all layers together, what its role has.
pub(super) fn of(role: Role, layer: Option<usize>, n_layers: usize) -> f64 {
    let factor = ROLES.iter().find(|r| r.0 == role).map_or(0.0, |r| r.1);
    match layer {
        Some(_) => factor / n_layers as f64,
        None => factor,
    }
}

/// How much of the variance of logits' errors changes their probabilities: 1 less the sum of the squared
/// probabilities, since what the likely tokens have in common changes nothing. A guess for plain text.
const UNCERTAIN: f64 = 0.5;

/// The mean KL divergence that errors of the output matrix make, with `err_sq` the mean square of a
/// weight's error and `gains` what the last norm multiplies with.
///
/// The divergence of small errors of logits is half their variance. A logit's error is the sum of the
/// errors of its row times the hidden state, which the last norm has brought to a mean square of 1
/// before the gains: `err_sq` times the sum of the squared gains.
pub(super) fn of_output(err_sq: f64, gains: &[f32]) -> f64 {
    let sum: f64 = gains.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    0.5 * UNCERTAIN * err_sq * sum
}
