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
    /// The channels of one of them were balanced when it was calibrated, and some matrices are to be
    /// taken without those that share channels with them.
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
                 was moved between them, and a single one cannot be exchanged: only a layer's \
                 attention or feed-forward network as a whole",
            ),
        }
    }
}

impl Error for HybridError {}

impl Weights {
    /// Takes the matrices for which `is_taken` says so from `other`, a bias together with its
    /// matrix. Gate and up of a layer are asked for as [`Role::FfnGate`]; tied embeddings, which
    /// are the output matrix too, as [`Role::TokenEmbd`]. Norms before attention, before the feed-forward
    /// network and the last one are taken if asked for; those that are not have to be the same, unless
    /// channels are `balanced` in one of the files: then what shares channels has to be taken together.
    ///
    /// # Errors
    ///
    /// [`HybridError`]. Nothing has changed then.
    pub fn take_from(
        &mut self,
        other: Self,
        balanced: bool,
        is_taken: impl Fn(Role, Option<usize>) -> bool,
    ) -> Result<(), HybridError> {
        if !computes_alike(&self.config, &other.config) {
            return Err(HybridError::Config);
        }
        if balanced && !keeps_together(&self.config, &is_taken) {
            return Err(HybridError::Balanced);
        }
        let differs = |&(role, layer): &_| match role {
            Role::AttnNorm | Role::FfnNorm | Role::OutputNorm => {
                !balanced && !is_taken(role, layer)
            }
            _ => true,
        };
        if let Some((role, layer)) = differing_norms(self, &other).into_iter().find(differs) {
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
        if is_taken(Role::OutputNorm, None) {
            self.output_norm = other.output_norm;
        }
        for (i, (to, from)) in self.layers.iter_mut().zip(other.layers).enumerate() {
            for (role, to, from) in [
                (Role::AttnNorm, &mut to.attn_norm, from.attn_norm),
                (Role::FfnNorm, &mut to.ffn_norm, from.ffn_norm),
            ] {
                if is_taken(role, Some(i)) {
                    *to = from;
                }
            }
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

fn differing_norms(a: &Weights, b: &Weights) -> Vec<(Role, Option<usize>)> {
    let layer = |(i, (a, b)): (usize, (&Layer, &Layer))| {
        let differs = [
            (Role::AttnNorm, a.attn_norm != b.attn_norm),
            (Role::AttnQNorm, a.q.norm != b.q.norm),
            (Role::AttnKNorm, a.k.norm != b.k.norm),
            (Role::FfnNorm, a.ffn_norm != b.ffn_norm),
        ];
        let differs = differs.into_iter().filter(|d| d.1);
        differs.map(move |d| (d.0, Some(i)))
    };
    let layers = a.layers.iter().zip(&b.layers).enumerate();
    let last = (a.output_norm != b.output_norm).then_some((Role::OutputNorm, None));
    layers.flat_map(layer).chain(last).collect()
}

/// Norms and matrices that share channels: where channels were balanced, one of them alone means nothing.
const ATTENTION: [Role; 5] = [
    Role::AttnNorm,
    Role::AttnQ,
    Role::AttnK,
    Role::AttnV,
    Role::AttnOut,
];
const FEED_FORWARD: [Role; 3] = [Role::FfnNorm, Role::FfnGate, Role::FfnDown];
/// As long as the embeddings are not the output matrix.
const HEAD: [Role; 2] = [Role::OutputNorm, Role::Output];

/// Whether what shares channels is taken together or left together.
pub(crate) fn keeps_together(
    config: &Config,
    is_taken: impl Fn(Role, Option<usize>) -> bool,
) -> bool {
    let alike = |roles: &[Role], layer| {
        let mut taken = roles.iter().map(|&role| is_taken(role, layer));
        let first = taken.next();
        taken.all(|t| Some(t) == first)
    };
    (0..config.n_layers).all(|i| alike(&ATTENTION, Some(i)) && alike(&FEED_FORWARD, Some(i)))
        && (config.tied_embeddings || alike(&HEAD, None))
}
