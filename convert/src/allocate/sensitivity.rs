//! How much errors of a role matter, where nothing was measured on the model itself.

use chaski_models::tensors::Role;
use chaski_quant::QuantType;

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

/// The relative error (of squares) of the activations that quantised matrices multiply, as far as it
/// acts like one of the weights: that of Gaussian numbers. What 8-bit activations cost by themselves, over the
/// sum of all factors, is 9e-5 of SmolLM2 and 3e-5 of Qwen2.5 (docs/quality.md).
const ACTIVATIONS: f64 = 3e-5;

/// What activations add to the relative error of a matrix of a type: floats multiply them as they are.
pub(super) fn activations(qtype: QuantType) -> f64 {
    match qtype.is_quantized() {
        true => ACTIVATIONS,
        false => 0.0,
    }
}

/// The factor of a matrix's relative error: of all layers together, what its role has.
pub(super) fn of(role: Role, layer: Option<usize>, n_layers: usize) -> f64 {
    let factor = ROLES.iter().find(|r| r.0 == role).map_or(0.0, |r| r.1);
    match layer {
        Some(_) => factor / n_layers as f64,
        None => factor,
    }
}

/// How much of the variance of logits' errors changes their probabilities: 1 less the sum of the squared
/// probabilities, since what the likely tokens have in common changes nothing. A guess for plain text that
/// was chosen on one model (docs/quantiser.md).
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of mean 0 and mean square 1.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 11) as f64 / (1_u64 << 53) as f64 - 0.5) * 12_f64.sqrt()
        }
    }

    #[test]
    fn errors_of_the_output_matrix_cost_what_they_do_to_probabilities() {
        const TOKENS: usize = 512;
        const DIM: usize = 64;
        let mut noise = Noise(1);
        let gains: Vec<f32> = (0..DIM).map(|i| 0.5 + i as f32 / 16.0).collect();
        let err_sq = 1e-4;
        let (mut kld, mut unsure) = (0.0, 0.0);
        let rounds = 40;
        for _ in 0..rounds {
            let hidden: Vec<f64> = gains.iter().map(|&g| noise.next() * f64::from(g)).collect();
            let logits: Vec<f64> = (0..TOKENS).map(|_| 2.0 * noise.next()).collect();
            let moved: Vec<f64> = logits
                .iter()
                .map(|l| {
                    let error = |h: &f64| h * noise.next() * f64::sqrt(err_sq);
                    l + hidden.iter().map(error).sum::<f64>()
                })
                .collect();
            let sum = |l: &[f64]| l.iter().map(|l| l.exp()).sum::<f64>();
            let (from, to) = (sum(&logits), sum(&moved));
            for (l, m) in logits.iter().zip(&moved) {
                let p = l.exp() / from;
                kld += p * (p / (m.exp() / to)).ln() / f64::from(rounds);
                unsure -= p * p / f64::from(rounds);
            }
            unsure += 1.0 / f64::from(rounds);
        }
        let predicted = of_output(err_sq, &gains) / UNCERTAIN * unsure;
        let ratio = kld / predicted;
        assert!((0.9..1.1).contains(&ratio), "{kld} for {predicted}");
    }
}
