//! What the benches share: the models whose shapes they have, and weights to read.
//!
//! `cargo bench -p chaski-bench-kernels [-- FILTER]`. Names are `operation/type/level/shape`, so that
//! `matmul1/q4/avx512` selects the decode of one type on one level. Every level that the CPU has is
//! run; `CHASKI_SIMD` does not matter here.

use chaski_kernels_simd::testing::{Rng, random_tiles};
use chaski_quant::{QuantType, TILE_ROWS, TensorLayout, TileRun};

/// A matrix of a model: rows (outputs) and columns (inputs).
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The model, and the matrix.
    pub name: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// Matrices of SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B. In Q4 (0.53 bytes a weight) those of
/// SmolLM2 fit a core's second cache (1 MB on the machines at hand), the first of the 1B its third;
/// the feed-forward matrices of the 8B (31 MB) and the head of the 1B (140 MB) fit none of a
/// desktop's.
pub const SHAPES: [Shape; 7] = [
    Shape {
        name: "smollm2-down",
        rows: 576,
        cols: 1536,
    },
    Shape {
        name: "smollm2-gate",
        rows: 1536,
        cols: 576,
    },
    Shape {
        name: "1b-q",
        rows: 2048,
        cols: 2048,
    },
    Shape {
        name: "1b-down",
        rows: 2048,
        cols: 8192,
    },
    Shape {
        name: "8b-q",
        rows: 4096,
        cols: 4096,
    },
    Shape {
        name: "8b-down",
        rows: 4096,
        cols: 14_336,
    },
    Shape {
        name: "1b-head",
        rows: 128_256,
        cols: 2048,
    },
];

/// Tiles of one matrix.
#[derive(Debug)]
pub struct Matrix {
    layout: TensorLayout,
    bytes: Vec<u8>,
}

impl Matrix {
    /// Copies of one random tile: the speed does not depend on what the weights say, and to make
    /// all of them would take longer than to multiply them.
    ///
    /// # Panics
    ///
    /// If the shape is none of a tensor.
    pub fn new(qtype: QuantType, shape: Shape) -> Self {
        let layout = TensorLayout::new(qtype, shape.rows, shape.cols);
        let tile = TensorLayout::new(qtype, TILE_ROWS, shape.cols);
        let (Ok(layout), Ok(tile)) = (layout, tile) else {
            panic!("{shape:?} as {qtype}");
        };
        let bytes = random_tiles(&mut Rng::new(1), &tile).repeat(layout.n_tiles());
        Self { layout, bytes }
    }

    /// Bytes of all tiles.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no tiles.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The tiles.
    pub fn tiles(&self) -> TileRun<'_> {
        let (n, stride) = (self.layout.n_tiles(), self.layout.tile_bytes());
        TileRun::new(&self.layout, &self.bytes, n, stride)
    }
}
