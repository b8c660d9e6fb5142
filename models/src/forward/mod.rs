//! The forward pass: written once, over rows, as a walk through phases.
//!
//! A row is one (sequence, position, token). Prefill is many rows of one sequence, decode is one row
//! of each, a mix is a mix; nothing else tells them apart, and no result depends on how rows are
//! put into calls. A backend implements the [`Phases`] and hands itself to [`walk`].

pub mod kv;
mod observe;
mod rows;

pub use observe::{Observed, Site};
pub use rows::{BackendError, Row, RowLimits, check_rows, n_logits};

/// The verbs of a forward pass over the rows of one call.
///
/// Between two of them every value of the first is complete; a backend of several threads ends each
/// with a barrier. In brackets: what is computed for every row, by the operations of
/// [`chaski_quant::scalar`].
pub trait Phases {
    /// What can go wrong.
    type Error;

    /// `x = token_embd[token]`, dequantised.
    fn embed(&mut self) -> Result<(), Self::Error>;

    /// `a = rms_norm(x, attn_norm)`; `q, k, v = attn_q a, attn_k a, attn_v a`; biases added; every
    /// head of q and k `rms_norm`ed where the model has QK-norm, then rotated; k and v stored in the
    /// KV cache.
    fn qkv(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// Every query head attends to the positions of [`Config::attended`](crate::Config::attended).
    fn attention(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// `x += attn_output o` with `o` the heads' results, `[n_heads * head_dim]`.
    fn attn_output(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// `a = rms_norm(x, ffn_norm)`; `h = swiglu(ffn_gate a, ffn_up a)`.
    fn gate_up(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// `x += ffn_down h`.
    fn down(&mut self, layer: usize) -> Result<(), Self::Error>;

    /// For the rows that want logits: `output rms_norm(x, output_norm)`; the output matrix is
    /// `token_embd` where embeddings are tied.
    fn head(&mut self) -> Result<(), Self::Error>;
}

/// The one forward pass.
///
/// # Errors
///
/// The first error of a phase; those after it are not begun.
pub fn walk<P: Phases>(n_layers: usize, phases: &mut P) -> Result<(), P::Error> {
    phases.embed()?;
    for layer in 0..n_layers {
        phases.qkv(layer)?;
        phases.attention(layer)?;
        phases.attn_output(layer)?;
        phases.gate_up(layer)?;
        phases.down(layer)?;
    }
    phases.head()
}

/// A machine that holds a model and its KV cache.
pub trait Backend {
    /// Computes rows and stores their keys and values.
    ///
    /// * `rows`: as [`Row`] demands.
    /// * `logits`: `[n_logits(rows), vocab_size]`, in the order of the rows that want logits.
    ///
    /// # Errors
    ///
    /// Rows that break [`Row`]'s rules are refused before anything is computed. After any other error
    /// the positions of `rows` count as not stored.
    fn forward(&mut self, rows: &[Row], logits: &mut [f32]) -> Result<(), BackendError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names(Vec<String>);

    impl Names {
        fn push(&mut self, name: &str, layer: usize) -> Result<(), usize> {
            self.0.push(format!("{name}{layer}"));
            if self.0.len() == 8 {
                Err(self.0.len())
            } else {
                Ok(())
            }
        }
    }

    impl Phases for Names {
        type Error = usize;

        fn embed(&mut self) -> Result<(), usize> {
            self.push("embed", 0)
        }
        fn qkv(&mut self, layer: usize) -> Result<(), usize> {
            self.push("qkv", layer)
        }
        fn attention(&mut self, layer: usize) -> Result<(), usize> {
            self.push("attention", layer)
        }
        fn attn_output(&mut self, layer: usize) -> Result<(), usize> {
            self.push("attn_output", layer)
        }
        fn gate_up(&mut self, layer: usize) -> Result<(), usize> {
            self.push("gate_up", layer)
        }
        fn down(&mut self, layer: usize) -> Result<(), usize> {
            self.push("down", layer)
        }
        fn head(&mut self) -> Result<(), usize> {
            self.push("head", 9)
        }
    }

    #[test]
    fn the_walk_visits_the_phases_in_order_and_stops_at_an_error() {
        let mut one = Names(Vec::new());
        assert_eq!(walk(1, &mut one), Ok(()));
        let phases = "embed0 qkv0 attention0 attn_output0 gate_up0 down0 head9";
        assert_eq!(one.0.join(" "), phases);
        let mut two = Names(Vec::new());
        assert_eq!(walk(2, &mut two), Err(8));
        assert_eq!(two.0.last().unwrap(), "attention1");
    }
}
