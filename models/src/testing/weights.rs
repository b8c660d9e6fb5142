//! Weights from a seed.

use chaski_quant::{BLOCK, QuantType, TILE_ROWS, TensorLayout};
use half::{bf16, f16};

use crate::{Role, TensorSpec};

/// SplitMix64: small, and the same numbers everywhere.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// About a normal distribution of deviation 1: the sum of twelve uniform numbers less 6. Exact
    /// arithmetic, so the same everywhere.
    pub fn normal(&mut self) -> f64 {
        let mut sum = 0;
        for _ in 0..3 {
            let bits = self.next_u64();
            sum += (0..4)
                .map(|i| i64::from((bits >> (16 * i)) as u16))
                .sum::<i64>();
        }
        (sum - 6 * 65535) as f64 / 65536.0
    }
}

/// The weights `[rows, cols]` of a tensor of the model with this seed.
///
/// Matrices have deviation `gain / sqrt(cols)`, so that the hidden state neither vanishes nor
/// explodes; the gain of Q and K makes attention look at few positions rather than at all alike.
pub fn weights(seed: u64, spec: &TensorSpec) -> Vec<f32> {
    let mut state = seed;
    for byte in spec.name.bytes() {
        state = Rng::new(state ^ u64::from(byte)).next_u64();
    }
    let mut rng = Rng::new(state);
    let (mean, deviation) = match spec.role {
        _ if spec.role == Role::TokenEmbd => (0.0, 0.5),
        Role::AttnQBias | Role::AttnKBias | Role::AttnVBias => (0.0, 0.5),
        _ if spec.vector => (1.0, 0.2),
        Role::AttnQ | Role::AttnK => (0.0, 1.5 / (spec.cols as f64).sqrt()),
        _ => (0.0, 1.0 / (spec.cols as f64).sqrt()),
    };
    (0..spec.n_weights())
        .map(|_| exact((mean + deviation * rng.normal()) as f32))
        .collect()
}

/// The nearest number that F32, BF16 and F16 all hold.
fn exact(x: f32) -> f32 {
    // 8 significant bits; below 2^-14 F16 would have fewer.
    let x = bf16::from_f32(x).to_f32();
    if x.abs() < 6.103_515_6e-5 { 0.0 } else { x }
}

/// The tiles of `floats`, `[rows, cols]`, in a layout of a float type. A value that the type does
/// not hold is rounded to the nearest, ties to even.
///
/// # Panics
///
/// If the layout is of a quantised type or of another size.
pub fn pack_floats(layout: &TensorLayout, floats: &[f32]) -> Vec<u8> {
    assert_eq!(floats.len(), layout.rows() * layout.cols(), "floats");
    let mut bytes = vec![0; layout.bytes()];
    for (row, floats) in floats.chunks_exact(layout.cols()).enumerate() {
        let (tile, lane) = layout.tile_and_lane(row);
        let tile = &mut bytes[tile * layout.tile_bytes()..][..layout.tile_bytes()];
        for (k, &x) in floats.iter().enumerate() {
            let block = &mut tile[k / BLOCK * layout.qtype().tile_block_bytes()..];
            let i = k % BLOCK * TILE_ROWS + lane;
            match layout.qtype() {
                QuantType::F32 => block[4 * i..][..4].copy_from_slice(&x.to_le_bytes()),
                QuantType::F16 => {
                    block[2 * i..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
                }
                QuantType::BF16 => {
                    block[2 * i..][..2].copy_from_slice(&bf16::from_f32(x).to_le_bytes());
                }
                other => panic!("{other} is not a float type"),
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use chaski_quant::scalar::dequantize_tile;

    use super::*;
    use crate::testing::Variant;
    use crate::{tensor_table, tensors::tensor_spec};

    #[test]
    fn weights_are_fixed_and_exact_in_every_float_type() {
        let config = Variant::Llama.config();
        let spec = tensor_spec(&config, Role::AttnQ, Some(1));
        let w = weights(1, &spec);
        assert_eq!(w[..4], [0.09082031, 0.13183594, -0.11425781, 0.26953125]);
        for spec in tensor_table(&config) {
            let w = weights(1, &spec);
            for x in &w {
                assert_eq!(f16::from_f32(*x).to_f32(), *x, "{}", spec.name);
                assert_eq!(bf16::from_f32(*x).to_f32(), *x, "{}", spec.name);
            }
            assert_ne!(w, weights(2, &spec), "{}", spec.name);
        }
    }

    #[test]
    fn packed_floats_come_back() {
        let config = Variant::LlamaUntied.config();
        let spec = tensor_spec(&config, Role::AttnQ, Some(0));
        let w = weights(1, &spec);
        for qtype in [QuantType::F32, QuantType::F16, QuantType::BF16] {
            let layout = spec.layout(qtype).unwrap();
            let bytes = pack_floats(&layout, &w);
            let tiles = bytes.chunks_exact(layout.tile_bytes()).enumerate();
            let got: Vec<_> = tiles
                .flat_map(|(i, t)| dequantize_tile(&layout, i, t))
                .collect();
            assert_eq!(got, w, "{qtype}");
        }
    }
}
