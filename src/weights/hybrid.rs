//! A model with some matrices of another file: to measure what these add to the error.

use std::{error::Error, fmt};

use chaski_models::{Config, Role, tensors::tensor_name};

use super::{Layer, Matrix, Weights};

/// Why two files cannot lend each other matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HybridError {
    /// They are not of one configuration.
    Config,
    /// They differ in a norm. Whoever made the file moved something between norms and matrices, so
    /// that a single matrix means nothing without the others.
    Norm {
        /// The norm's name.
        name: String,
    },
    /// The channels of one of them were balanced when it was calibrated.
    Balanced,
}

impl fmt::Display for HybridError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => {
                f.write_str("the model and its reference differ in their configuration")
            }
            Self::Norm { name } => write!(
                f,
                "the model and its reference differ in `{name}`: something was moved between norms \
                 and matrices, and a single matrix cannot be exchanged"
            ),
            Self::Balanced => f.write_str(
                "the model's channels were balanced when it was calibrated: what its matrices hold \
                 was moved between them, and a single one cannot be exchanged",
            ),
        }
    }
}

impl Error for HybridError {}

impl Weights {
    /// Takes the matrices for which `is_taken` says so from `other`, a bias together with its
    /// matrix. Gate and up of a layer are asked for as [`Role::FfnGate`]; tied embeddings, which
    /// are the output matrix too, as [`Role::TokenEmbd`].
    ///
    /// # Errors
    ///
    /// [`HybridError`]. Nothing has changed then.
    pub fn take_from(
        &mut self,
        other: Self,
        is_taken: impl Fn(Role, Option<usize>) -> bool,
    ) -> Result<(), HybridError> {
        if !computes_alike(&self.config, &other.config) {
            return Err(HybridError::Config);
        }
        if let Some((role, layer)) = differing_norm(self, &other) {
            let name = tensor_name(role, layer);
            return Err(HybridError::Norm { name });
        }
        let lent = |matrix: Matrix| Matrix {
            lent: true,
            ..matrix
        };
        if is_taken(Role::TokenEmbd, None) {
            self.token_embd = lent(other.token_embd);
            if self.config.tied_embeddings {
                self.output = self.token_embd;
            }
        }
        if !self.config.tied_embeddings && is_taken(Role::Output, None) {
            self.output = lent(other.output);
        }
        for (i, (to, from)) in self.layers.iter_mut().zip(other.layers).enumerate() {
            for (role, to, from) in [
                (Role::AttnQ, &mut to.q, from.q),
                (Role::AttnK, &mut to.k, from.k),
                (Role::AttnV, &mut to.v, from.v),
            ] {
                if is_taken(role, Some(i)) {
                    (to.matrix, to.bias) = (lent(from.matrix), from.bias);
                }
            }
            for (role, to, from) in [
                (Role::AttnOut, &mut to.attn_output, from.attn_output),
                (Role::FfnGate, &mut to.gate_up, from.gate_up),
                (Role::FfnDown, &mut to.down, from.down),
            ] {
                if is_taken(role, Some(i)) {
                    *to = lent(from);
                }
            }
        }
        self.lender = Some(other.container);
        Ok(())
    }
}

/// Whether two configurations differ only in what no layer computes with.
fn computes_alike(a: &Config, b: &Config) -> bool {
    let b = Config {
        max_seq_len: a.max_seq_len,
        bos_token_id: a.bos_token_id,
        eos_token_ids: a.eos_token_ids.clone(),
        ..b.clone()
    };
    *a == b
}

fn differing_norm(a: &Weights, b: &Weights) -> Option<(Role, Option<usize>)> {
    let layer = |(i, (a, b)): (usize, (&Layer, &Layer))| {
        let differs = [
            (Role::AttnNorm, a.attn_norm != b.attn_norm),
            (Role::AttnQNorm, a.q.norm != b.q.norm),
            (Role::AttnKNorm, a.k.norm != b.k.norm),
            (Role::FfnNorm, a.ffn_norm != b.ffn_norm),
        ];
        let differs = differs.into_iter().find(|d| d.1)?;
        Some((differs.0, Some(i)))
    };
    let layers = a.layers.iter().zip(&b.layers).enumerate();
    let last = || (a.output_norm != b.output_norm).then_some((Role::OutputNorm, None));
    layers.filter_map(layer).next().or_else(last)
}
