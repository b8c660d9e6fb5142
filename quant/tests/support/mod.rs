//! Seeded numbers, the same on every platform.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part")]

use chaski_quant::{QuantType, TensorLayout, quantize::Quantizer, quantize::TileStats};

/// A small generator (splitmix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub(crate) fn normal(&mut self) -> f32 {
        let (u, v) = (self.uniform(), self.uniform());
        let turn = libm::cos(2.0 * std::f64::consts::PI * v);
        (libm::sqrt(-2.0 * libm::log(u)) * turn) as f32
    }

    pub(crate) fn normals(&mut self, n: usize, deviation: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal() * deviation).collect()
    }
}

/// The layout of `n_rows` rows of `cols` columns in one tile.
pub(crate) fn tile_layout(qtype: QuantType, n_rows: usize, cols: usize) -> TensorLayout {
    TensorLayout::new(qtype, n_rows, cols).unwrap()
}

/// Quantises the rows of `weights`, `[n_rows, cols]`, into a tile that was full of ones before.
pub(crate) fn quantize(qtype: QuantType, weights: &[f32], cols: usize) -> (Vec<u8>, TileStats) {
    let rows: Vec<&[f32]> = weights.chunks_exact(cols).collect();
    let mut tile = vec![0xff; tile_layout(qtype, rows.len(), cols).tile_bytes()];
    let stats = Quantizer::new(qtype)
        .quantize_tile(&rows, &mut tile)
        .unwrap();
    (tile, stats)
}
