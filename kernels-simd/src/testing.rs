//! Seeded random tiles and activations that a real file may hold: for tests and benches.

use chaski_quant::{
    ActRows, Acts, BLOCK, QuantType, TILE_ROWS, TensorLayout, scalar,
    tile::{q4_scale_byte, scales_per_block, set_code},
};
use half::{bf16, f16};

/// A generator of numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose numbers `seed` decides.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number in `0..n`.
    ///
    /// # Panics
    ///
    /// If `n` is zero.
    pub const fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A number in `-limit..=limit`.
    pub const fn int(&mut self, limit: i8) -> i8 {
        (self.below(2 * limit as usize + 1) as i16 - limit as i16) as i8
    }

    /// A float in `-1.0..1.0`.
    pub const fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `n` floats in `-limit..limit`.
    pub fn floats(&mut self, n: usize, limit: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * limit).collect()
    }
}

/// How something is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Over the whole legal range.
    Random,
    /// The least legal value (codes, scales); float weights and row scales: large and negative.
    Low,
    /// The greatest legal value; float weights and row scales: large and positive.
    High,
    /// Zero (codes: the one whose value is nearest); row scales and float weights: subnormal.
    Tiny,
}

impl Fill {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::Random, Self::Low, Self::High, Self::Tiny];

    const fn int(self, rng: &mut Rng, limit: i8) -> i8 {
        match self {
            Self::Random => rng.int(limit),
            Self::Low => -limit,
            Self::High => limit,
            Self::Tiny => 0,
        }
    }

    const fn float(self, rng: &mut Rng, large: f32) -> f32 {
        match self {
            Self::Random => rng.float(),
            Self::Low => -large,
            Self::High => large,
            Self::Tiny => f32::from_bits(rng.bits() as u32 & 0x800f_ffff),
        }
    }
}

fn code(qtype: QuantType, fill: Fill, rng: &mut Rng) -> u8 {
    let levels = match qtype {
        QuantType::Q3 => 8,
        QuantType::Q5 => 32,
        QuantType::Q6 => 64,
        QuantType::Q8 => return fill.int(rng, 127).cast_unsigned(),
        _ => 16,
    };
    let code = match fill {
        Fill::Random => rng.below(levels),
        Fill::Low => 0,
        Fill::High => levels - 1,
        Fill::Tiny => levels / 2,
    };
    code as u8
}

fn fill_block(qtype: QuantType, block: &mut [u8], codes: Fill, scales: Fill, rng: &mut Rng) {
    let (scale_bytes, _) = block.split_at_mut(scales_per_block(qtype) * TILE_ROWS);
    for byte in scale_bytes {
        *byte = match qtype {
            QuantType::Q3 | QuantType::Q4 | QuantType::Q4H => {
                q4_scale_byte(scales.int(rng, 63), rng.below(2) == 1)
            }
            _ => scales.int(rng, 127).cast_unsigned(),
        };
    }
    for i in 0..TILE_ROWS * BLOCK {
        let (k, row) = (i / TILE_ROWS, i % TILE_ROWS);
        match qtype {
            QuantType::F32 => {
                let weight = codes.float(rng, 1e30).to_le_bytes();
                block[4 * i..4 * i + 4].copy_from_slice(&weight);
            }
            QuantType::F16 => {
                let weight = match codes {
                    Fill::Tiny => f16::from_bits(rng.bits() as u16 & 0x83ff),
                    _ => f16::from_f32(codes.float(rng, 65504.0)),
                };
                block[2 * i..2 * i + 2].copy_from_slice(&weight.to_le_bytes());
            }
            QuantType::BF16 => {
                let weight = bf16::from_f32(codes.float(rng, 1e30)).to_le_bytes();
                block[2 * i..2 * i + 2].copy_from_slice(&weight);
            }
            _ => set_code(qtype, block, row, k, code(qtype, codes, rng)),
        }
    }
}

/// All tiles of a matrix, [`TensorLayout::bytes`] of them, filled with legal codes and scales.
pub fn tiles(
    rng: &mut Rng,
    layout: &TensorLayout,
    codes: Fill,
    block_scales: Fill,
    row_scales: Fill,
) -> Vec<u8> {
    let qtype = layout.qtype();
    let mut bytes = vec![0; layout.bytes()];
    for tile in bytes.chunks_exact_mut(layout.tile_bytes()) {
        let (header, blocks) = tile.split_at_mut(qtype.tile_header_bytes());
        for scale in header.chunks_exact_mut(4) {
            scale.copy_from_slice(&row_scales.float(rng, 1e25).to_le_bytes());
        }
        for block in blocks
            .chunks_exact_mut(qtype.tile_block_bytes())
            .take(layout.n_blocks())
        {
            fill_block(qtype, block, codes, block_scales, rng);
        }
    }
    bytes
}

/// All tiles of a matrix with random weights.
pub fn random_tiles(rng: &mut Rng, layout: &TensorLayout) -> Vec<u8> {
    tiles(rng, layout, Fill::Random, Fill::Random, Fill::Random)
}

/// Activations of `n_rows` rows, quantised by the oracle.
///
/// `Low` and `High` give codes of -127 and 127 throughout; `Random` has a block of zeros here and
/// there; `Tiny` is around the magnitude at which blocks become zeros.
pub fn acts(rng: &mut Rng, n_rows: usize, n_blocks: usize, fill: Fill) -> Acts {
    let mut acts = Acts::new(n_rows, n_blocks);
    for row in 0..n_rows {
        for block in acts.floats_mut(row).chunks_exact_mut(BLOCK) {
            let limit = match (fill, rng.below(8)) {
                (Fill::Random, 0) => 0.0,
                (Fill::Random, n) => n as f32,
                (Fill::Tiny, n) => scalar::ACT_AMAX_MIN * (0.25 * n as f32),
                _ => 1.0,
            };
            for x in block {
                *x = match fill {
                    Fill::Low => -1.0,
                    Fill::High => 1.0,
                    _ => rng.float() * limit,
                };
            }
        }
        scalar::quantize_row(&mut acts.row_mut(row));
    }
    acts
}

/// The largest and smallest code of every row, to show what a filling has reached.
pub fn code_range(x: &ActRows<'_>) -> [i8; 2] {
    let codes = (0..x.n_rows()).flat_map(|t| x.codes(t)).copied();
    codes.fold([0; 2], |[lo, hi], c| [lo.min(c), hi.max(c)])
}
