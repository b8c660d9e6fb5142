//! The error that each role and each layer adds.

use std::{error::Error, fmt, num::NonZeroUsize, ops::ControlFlow, path::Path, sync::Arc};

use chaski_models::{Config, Role, tensors::has_role};

use super::{Chunks, Comparison, EvalError, compare};
use crate::{
    model::{Model, ModelError, ModelOptions},
    session::{Session, SessionError, SessionOptions},
    weights::HybridError,
};

/// Models that run side by side with one run of the reference.
const AT_ONCE: usize = 8;

/// Matrices whose error is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All matrices of a role. [`Role::FfnGate`] stands for gate and up, [`Role::TokenEmbd`] for the
    /// output matrix too where embeddings are tied.
    Role(Role),
    /// All of every layer's attention, its norm included.
    Attention,
    /// All of every layer's feed-forward network, its norm included.
    FeedForward,
    /// All matrices of a layer, and its norms.
    Layer(usize),
}

impl Part {
    /// The roles of a model, then its layers.
    ///
    /// * `balanced`: whether its channels were balanced; the roles that share channels are then one
    ///   part.
    pub fn all(config: &Config, balanced: bool) -> Vec<Self> {
        let of_role = |role: Role| match (balanced, role) {
            (true, Role::AttnQ) => Some(Self::Attention),
            (true, Role::FfnGate) => Some(Self::FeedForward),
            (true, Role::AttnK | Role::AttnV | Role::AttnOut | Role::FfnDown) => None,
            (_, Role::FfnUp) => None,
            _ => Some(Self::Role(role)),
        };
        let roles = Role::ALL.into_iter();
        let roles = roles.filter(|&role| !role.is_vector() && has_role(config, role));
        let layers = (0..config.n_layers).map(Self::Layer);
        roles.filter_map(of_role).chain(layers).collect()
    }

    /// Whether a matrix, or a norm that goes with it, is of this part.
    pub fn has(self, role: Role, layer: Option<usize>) -> bool {
        use Role::{AttnK, AttnNorm, AttnOut, AttnQ, AttnV, FfnDown, FfnGate, FfnNorm, FfnUp};
        match self {
            Self::Role(Role::Output) => matches!(role, Role::Output | Role::OutputNorm),
            Self::Role(of) => of == role,
            Self::Attention => matches!(role, AttnNorm | AttnQ | AttnK | AttnV | AttnOut),
            Self::FeedForward => matches!(role, FfnNorm | FfnGate | FfnUp | FfnDown),
            Self::Layer(of) => layer == Some(of),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(Role::FfnGate) => f.pad("ffn_gate, ffn_up"),
            Self::Role(role) => role.fmt(f),
            Self::Attention => f.pad("attention"),
            Self::FeedForward => f.pad("feed-forward"),
            Self::Layer(layer) => f.pad(&format!("layer {layer}")),
        }
    }
}

/// Why parts could not be measured.
#[derive(Debug)]
#[non_exhaustive]
pub enum PartsError {
    /// A file could not be opened.
    Open(ModelError),
    /// The model and its reference cannot lend each other matrices.
    Hybrid(HybridError),
    /// A session could not be made.
    Session(SessionError),
    /// The measurement failed.
    Eval(EvalError<SessionError>),
}

impl PartsError {
    /// Whether the two files cannot lend each other matrices.
    pub const fn is_hybrid(&self) -> bool {
        matches!(self, Self::Hybrid(_))
    }
}

impl fmt::Display for PartsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "a model could not be opened",
            Self::Hybrid(_) => "the errors of single matrices cannot be measured",
            Self::Session(_) => "a session could not be made",
            Self::Eval(_) => "the errors of single matrices could not be measured",
        })
    }
}

impl Error for PartsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open(e) => Some(e),
            Self::Hybrid(e) => Some(e),
            Self::Session(e) => Some(e),
            Self::Eval(e) => Some(e),
        }
    }
}

/// Fails where the reference cannot lend the model's place to its matrices, before anything is measured.
///
/// # Errors
///
/// [`PartsError`].
pub fn check_parts(reference: &Path, model: &Path) -> Result<(), PartsError> {
    let open = |path| Model::open(path, &ModelOptions::default()).map_err(PartsError::Open);
    let none = open(reference)?.with_matrices_of(open(model)?, |_, _| false);
    none.map(drop).map_err(PartsError::Hybrid)
}

/// Compares, for each of `parts`, the reference with itself but for that part's matrices, which are
/// the model's: what the model would lose if all else were exact. Matrices of the model that are
/// quantised multiply 8-bit activations as ever.
///
/// The divergences of disjoint parts do not add up to that of the whole model exactly, but nearly
/// while they are small.
///
/// `progress(steps done, steps)` is called after each chunk of some parts and may stop; what comes
/// back is then shorter than `parts`.
///
/// # Errors
///
/// [`PartsError`].
pub fn compare_parts(
    chunks: &Chunks<'_>,
    reference: &Path,
    model: &Path,
    parts: &[Part],
    options: &SessionOptions,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<(Part, Comparison)>, PartsError> {
    let open = |path| Model::open(path, &ModelOptions::default()).map_err(PartsError::Open);
    let session = |model| Session::new(&Arc::new(model), options).map_err(PartsError::Session);
    let mut reference_session = session(open(reference)?)?;
    let threads = reference_session.limits().threads;
    let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    let steps = chunks.n() * parts.len().div_ceil(AT_ONCE);
    let (mut measured, mut done, mut stopped) = (Vec::new(), 0, false);
    for some in parts.chunks(AT_ONCE) {
        let hybrid = |part: &Part| {
            let whole = open(reference)?;
            let hybrid = whole.with_matrices_of(open(model)?, |r, l| part.has(r, l));
            session(hybrid.map_err(PartsError::Hybrid)?)
        };
        let mut sessions = some.iter().map(hybrid).collect::<Result<Vec<_>, _>>()?;
        let compared = compare(
            chunks,
            &mut reference_session,
            &mut sessions,
            threads,
            |_, _| {
                done += 1;
                let flow = progress(done, steps);
                stopped |= flow.is_break();
                flow
            },
        );
        let compared = compared.map_err(PartsError::Eval)?;
        if stopped {
            break;
        }
        measured.extend(some.iter().copied().zip(compared));
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use chaski_models::testing::Variant;

    use super::*;
    use crate::weights::keeps_together;

    #[test]
    fn every_matrix_is_in_one_role_and_those_of_layers_in_one_layer() {
        for (variant, balanced) in Variant::ALL
            .into_iter()
            .flat_map(|v| [(v, false), (v, true)])
        {
            let config = variant.config();
            let parts = Part::all(&config, balanced);
            if balanced {
                let whole = |part: &Part| keeps_together(&config, |r, l| part.has(r, l));
                assert!(parts.iter().all(whole), "{}", variant.name());
            }
            for spec in chaski_models::tensor_table(&config) {
                // Up goes with gate.
                if spec.vector || (spec.role == Role::FfnUp && !balanced) {
                    continue;
                }
                let of = parts.iter().filter(|p| p.has(spec.role, spec.layer));
                let want = 1 + usize::from(spec.layer.is_some());
                assert_eq!(of.count(), want, "{} {}", variant.name(), spec.name);
            }
        }
        assert_eq!(Part::Role(Role::FfnGate).to_string(), "ffn_gate, ffn_up");
    }
}
