//! How much errors of a role matter, where nothing was measured on the model itself.

use chaski_models::tensors::Role;

/// The mean KL divergence that a relative error (of squares) of 1 of all matrices of a role would
/// make if it went on growing as it does for small errors.
///
/// Measured by quantising one role after the other to Q4 and leaving the others at f16; see
/// docs/quantiser.md.
const ROLES: [(Role, f64); 9] = [
    (Role::TokenEmbd, 1.0),
    (Role::AttnQ, 2.3),
    (Role::AttnK, 2.0),
    (Role::AttnV, 4.9),
    (Role::AttnOut, 1.9),
    (Role::FfnGate, 3.3),
    (Role::FfnUp, 3.3),
    (Role::FfnDown, 6.4),
    (Role::Output, 5.0),
];

/// The factor of a matrix's relative error: of all layers together, what its role has.
pub(super) fn of(role: Role, layer: Option<usize>, n_layers: usize, tied: bool) -> f64 {
    let factor = |role| ROLES.iter().find(|r| r.0 == role).map_or(0.0, |r| r.1);
    match layer {
        Some(_) => factor(role) / n_layers as f64,
        None if role == Role::TokenEmbd && tied => factor(Role::TokenEmbd) + factor(Role::Output),
        None => factor(role),
    }
}
