//! How much an error of each matrix matters, measured by running the model.
//!
//! One matrix after the other is quantised to [`PROBE`] and all others stay as they are; what matters is
//! the divergence of the logits that this makes on some text. The walk goes over the layers with one
//! layer's weights in memory. With it go the hidden states of the model as it is, and a variant of them
//! for each matrix that was quantised so far:
//!
//! ```text
//! states = embeddings of the tokens
//! variants = [embeddings in PROBE]
//! for layer:
//!     new = for each matrix: layer with it in PROBE, on states
//!     states, variants = layer on states, layer on each of variants
//!     variants += new
//! divergence of head on each of variants, and of head in PROBE on states, from head on states
//! ```

mod walk;

use std::collections::BTreeMap;

use chaski_models::tensors::Role;
use chaski_quant::QuantType;

pub use walk::measure;

/// The type that matrices are quantised to one after the other: errors large enough to be told from
/// rounding, and small enough that those of all types are in proportion to them.
pub(crate) const PROBE: QuantType = QuantType::Q4;

/// The mean KL divergence that each matrix of a model alone makes where it is quantised to Q4.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivities {
    /// Of gate and up together, under the name of gate. A tied matrix is two: its rows as embeddings, and
    /// as the output matrix.
    pub(crate) divergences: BTreeMap<(Role, Option<usize>), f64>,
    /// Positions whose logits were compared.
    pub(crate) positions: usize,
}

impl Sensitivities {
    /// The mean divergence, in nats, that the matrix of `role` in `layer` alone makes in Q4; `None` if there
    /// is no such matrix. `ffn_gate` stands for gate and up together, `token_embd` and `output` for one
    /// matrix each, also where embeddings are tied.
    pub fn of(&self, role: Role, layer: Option<usize>) -> Option<f64> {
        let role = match role {
            Role::FfnUp => Role::FfnGate,
            role => role,
        };
        self.divergences.get(&(role, layer)).copied()
    }

    /// Each matrix, as [`of`](Self::of) takes it, with its divergence.
    pub fn all(&self) -> impl Iterator<Item = (Role, Option<usize>, f64)> {
        let all = self.divergences.iter();
        all.map(|(&(role, layer), &kld)| (role, layer, kld))
    }

    /// Positions whose logits were compared.
    pub const fn positions(&self) -> usize {
        self.positions
    }
}
