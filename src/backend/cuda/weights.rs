//! The weights that a device has: of layers, and of the head.
//!
//! A layer is one allocation, the head another. In it lie the tensors' bytes as the file has them, each
//! at a multiple of 256 bytes. One walk over the tensors serves both counting and copying.

use chaski_quant::QuantType;

use super::{
    args::MatrixPart,
    device::{Buffer, Device, DeviceError},
};
use crate::weights::{Matrix, Projection, Weights};

/// Where tensors start.
const ALIGN: u64 = 256;

/// Numbers of a tensor on the host.
#[derive(Clone, Copy, Debug)]
enum Source<'w> {
    Tiles(&'w [u8]),
    Floats(&'w [f32]),
}

impl Source<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Tiles(bytes) => bytes.len() as u64,
            Self::Floats(floats) => size_of_val(*floats) as u64,
        }
    }
}

/// A matrix on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixAt {
    pub(super) qtype: QuantType,
    /// Blocks of 32 of a row.
    pub(super) n_blocks: u32,
    /// Where its tiles are; outputs are to be set.
    pub(super) part: MatrixPart,
}

/// Q, K or V on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProjectionAt {
    /// The matrix, with its bias.
    pub(super) matrix: MatrixAt,
    /// f32 `[head_dim]`; 0: none.
    pub(super) norm: u64,
}

/// A layer on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerAt {
    pub(super) attn_norm: u64,
    pub(super) q: ProjectionAt,
    pub(super) k: ProjectionAt,
    pub(super) v: ProjectionAt,
    pub(super) attn_output: MatrixAt,
    pub(super) ffn_norm: u64,
    pub(super) gate: MatrixAt,
    pub(super) up: MatrixAt,
    pub(super) down: MatrixAt,
}

impl LayerAt {
    /// Its matrices.
    pub(super) const fn matrices(&self) -> [&MatrixAt; 7] {
        [
            &self.q.matrix,
            &self.k.matrix,
            &self.v.matrix,
            &self.attn_output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

/// The head on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadAt {
    pub(super) norm: u64,
    pub(super) output: MatrixAt,
}

/// Hands tensors to `put`, which says where on the device they are.
struct Walk<'a, 'w> {
    weights: &'w Weights,
    put: &'a mut dyn FnMut(Source<'w>) -> Result<u64, DeviceError>,
}

impl<'w> Walk<'_, 'w> {
    fn floats(&mut self, floats: &'w [f32]) -> Result<u64, DeviceError> {
        (self.put)(Source::Floats(floats))
    }

    fn optional(&mut self, floats: Option<&'w Vec<f32>>) -> Result<u64, DeviceError> {
        floats.map_or(Ok(0), |f| self.floats(f))
    }

    /// A matrix whose first tile is `first` tiles behind where `bytes` are put, every `step`th is its
    /// own.
    fn tiles(matrix: &Matrix, tiles: u64, first: usize, step: usize) -> MatrixAt {
        let layout = matrix.layout();
        let tile_bytes = layout.tile_bytes() as u64;
        MatrixAt {
            qtype: layout.qtype(),
            n_blocks: layout.n_blocks() as u32,
            part: MatrixPart {
                tiles: tiles + first as u64 * tile_bytes,
                stride: step as u64 * tile_bytes,
                n_tiles: layout.n_tiles() as u32,
                tiles_per_group: layout.tiles_per_group() as u32,
                row_group: layout.row_group() as u32,
                ..MatrixPart::default()
            },
        }
    }

    fn matrix(&mut self, matrix: &Matrix) -> Result<MatrixAt, DeviceError> {
        let tiles = (self.put)(Source::Tiles(self.weights.tiles(matrix).bytes()))?;
        Ok(Self::tiles(matrix, tiles, 0, 1))
    }

    fn projection(&mut self, projection: &'w Projection) -> Result<ProjectionAt, DeviceError> {
        let mut matrix = self.matrix(&projection.matrix)?;
        matrix.part.bias = self.optional(projection.bias.as_ref())?;
        Ok(ProjectionAt {
            matrix,
            norm: self.optional(projection.norm.as_ref())?,
        })
    }

    fn layer(&mut self, layer: usize) -> Result<LayerAt, DeviceError> {
        let layer = self.weights.layer(layer);
        let attn_norm = self.floats(&layer.attn_norm)?;
        let (q, k) = (self.projection(&layer.q)?, self.projection(&layer.k)?);
        let v = self.projection(&layer.v)?;
        let attn_output = self.matrix(&layer.attn_output)?;
        let ffn_norm = self.floats(&layer.ffn_norm)?;
        // Tiles of gate and up in turns.
        let pair = self.weights.pair_tiles(&layer.gate_up).bytes();
        let pair = (self.put)(Source::Tiles(pair))?;
        let [gate, up] = [0, 1].map(|first| Self::tiles(&layer.gate_up, pair, first, 2));
        Ok(LayerAt {
            attn_norm,
            q,
            k,
            v,
            attn_output,
            ffn_norm,
            gate,
            up,
            down: self.matrix(&layer.down)?,
        })
    }

    fn head(&mut self) -> Result<HeadAt, DeviceError> {
        Ok(HeadAt {
            norm: self.floats(self.weights.output_norm())?,
            output: self.matrix(self.weights.output())?,
        })
    }
}

/// Bytes of what `walk` hands out.
fn count<T>(weights: &Weights, walk: impl Fn(&mut Walk<'_, '_>) -> Result<T, DeviceError>) -> u64 {
    let mut end = 0_u64;
    let mut put = |source: Source<'_>| {
        end = end.next_multiple_of(ALIGN) + source.len();
        Ok(0)
    };
    // Counting does not fail.
    let _ = walk(&mut Walk {
        weights,
        put: &mut put,
    });
    end.next_multiple_of(ALIGN)
}

/// Allocates for what `walk` hands out and copies it.
fn copy<T>(
    device: &dyn Device,
    weights: &Weights,
    walk: impl Fn(&mut Walk<'_, '_>) -> Result<T, DeviceError>,
) -> Result<(Buffer, T), DeviceError> {
    let buffer = device.alloc(count(weights, &walk) as usize)?;
    let mut end = 0_u64;
    let mut put = |source: Source<'_>| {
        let offset = end.next_multiple_of(ALIGN);
        end = offset + source.len();
        match source {
            Source::Tiles(bytes) => device.upload(&buffer, offset as usize, bytes)?,
            Source::Floats(floats) => {
                let bytes: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
                device.upload(&buffer, offset as usize, &bytes)?;
            }
        }
        Ok(buffer.address() + offset)
    };
    let at = walk(&mut Walk {
        weights,
        put: &mut put,
    })?;
    Ok((buffer, at))
}

/// Bytes of layer `layer` on a device.
pub(super) fn layer_bytes(weights: &Weights, layer: usize) -> u64 {
    count(weights, |walk| walk.layer(layer))
}

/// Bytes of the head on a device.
pub(super) fn head_bytes(weights: &Weights) -> u64 {
    count(weights, |walk| walk.head())
}

/// Copies a layer to a device.
pub(super) fn copy_layer(
    device: &dyn Device,
    weights: &Weights,
    layer: usize,
) -> Result<(Buffer, LayerAt), DeviceError> {
    copy(device, weights, |walk| walk.layer(layer))
}

/// Copies the head to a device.
pub(super) fn copy_head(
    device: &dyn Device,
    weights: &Weights,
) -> Result<(Buffer, HeadAt), DeviceError> {
    copy(device, weights, |walk| walk.head())
}
