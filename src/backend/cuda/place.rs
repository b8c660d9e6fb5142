//! What of a model fits on a device.

use chaski_models::{Config, forward::kv::KvGeometry};
use chaski_quant::{QuantType, TILE_ROWS};
use serde::Serialize;

use super::{
    Opened,
    args::MAX_HEAD_DIM,
    buffers::Sizes,
    device::{Device, DeviceError},
    error::CudaError,
    weights,
};
use crate::{
    backend::{
        cpu::PassLimits,
        placement::{GpuLayers, Placement},
    },
    weights::Weights,
};

/// Bytes of free memory that `auto` leaves alone: allocations are rounded up, recorded launches take
/// some, and so does whatever draws the screen.
const RESERVE: u64 = 256 << 20;

/// Rows of a pass that the kernels' grids go up to.
const MAX_ROWS: usize = 65_535;

/// Rows of a matrix that the kernels' grids go up to: as many blocks of 16 tiles.
const MAX_MATRIX_ROWS: usize = 65_535 * 16 * TILE_ROWS;

/// Bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceBytes {
    /// Weights.
    pub weights: u64,
    /// Keys and values of the device's layers.
    pub kv_cache: u64,
    /// All else that passes write.
    pub buffers: u64,
}

impl DeviceBytes {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.buffers
    }
}

/// Shape of the pages of a device's layers.
pub(super) const fn geometry(config: &Config, limits: &PassLimits, n_layers: usize) -> KvGeometry {
    KvGeometry {
        n_layers,
        ..KvGeometry::new(config, limits.kv_type)
    }
}

/// Pages of the cache, on each machine that has layers.
pub(super) const fn n_pages(limits: &PassLimits) -> usize {
    limits.n_seqs * KvGeometry::n_pages(limits.context_len)
}

/// Bytes that `placement` takes on a device, but for what the driver takes for itself.
pub fn bytes(weights: &Weights, limits: &PassLimits, placement: &Placement) -> DeviceBytes {
    let config = weights.config();
    if !placement.uses_gpu() {
        return DeviceBytes {
            weights: 0,
            kv_cache: 0,
            buffers: 0,
        };
    }
    let layers = placement.cpu_layers()..placement.n_layers;
    let head = match placement.gpu_head {
        true => weights::head_bytes(weights),
        false => 0,
    };
    let page = geometry(config, limits, placement.gpu_layers).page_bytes();
    DeviceBytes {
        weights: layers
            .map(|l| weights::layer_bytes(weights, l))
            .sum::<u64>()
            + head,
        kv_cache: (n_pages(limits) * page) as u64,
        buffers: Sizes::new(config, limits, placement).total(),
    }
}

/// The most layers, and the head, that fit into `free` bytes.
fn fit(weights: &Weights, limits: &PassLimits, free: u64) -> Placement {
    let n_layers = weights.config().n_layers;
    let placements = (0..=n_layers + 1).map(|n| Placement::of_count(n_layers, n));
    let fits = |p: &Placement| bytes(weights, limits, p).total() <= free;
    // Each takes more than the one before it.
    placements
        .take_while(fits)
        .last()
        .unwrap_or(Placement::cpu(n_layers))
}

/// An error of a device, for whoever asked for layers there.
pub(super) fn failed(
    device: &dyn Device,
    what: impl Into<String>,
) -> impl FnOnce(DeviceError) -> CudaError {
    let (name, what) = (device.info().name.clone(), what.into());
    move |source| CudaError::Device { name, what, source }
}

/// What of a model goes on a device: what is asked for, if it fits.
///
/// # Errors
///
/// [`CudaError::DoesNotFit`]; [`CudaError::Unsupported`]; the device does not answer. None of these
/// where [`GpuLayers::Auto`] is asked for, except the last: the answer is then that nothing goes there.
pub fn place(
    opened: &Opened,
    weights: &Weights,
    limits: &PassLimits,
    asked: GpuLayers,
) -> Result<Placement, CudaError> {
    let (device, n_layers) = (&*opened.device, weights.config().n_layers);
    let free = device
        .free_memory()
        .map_err(failed(device, "telling its free memory"))? as u64;
    let supported = supported(weights, limits);
    let placement = match asked {
        GpuLayers::Auto if supported.is_err() => return Ok(Placement::cpu(n_layers)),
        GpuLayers::Auto => return Ok(fit(weights, limits, free.saturating_sub(RESERVE))),
        GpuLayers::Count(n) => Placement::of_count(n_layers, n),
        GpuLayers::All => Placement::of_count(n_layers, usize::MAX),
    };
    if !placement.uses_gpu() {
        return Ok(placement);
    }
    supported?;
    let needed = bytes(weights, limits, &placement).total();
    if needed > free {
        return Err(CudaError::DoesNotFit {
            name: device.info().name.clone(),
            needed,
            free,
            fits: fit(weights, limits, free.saturating_sub(RESERVE)).count(),
        });
    }
    Ok(placement)
}

/// Whether the kernels are made for such passes.
fn supported(weights: &Weights, limits: &PassLimits) -> Result<(), CudaError> {
    let qtype = QuantType::Q3;
    if weights.has_type(qtype) {
        return Err(CudaError::NoKernel { qtype });
    }
    let config = weights.config();
    for (what, got, max) in [
        ("a head", config.head_dim, MAX_HEAD_DIM as usize),
        ("a batch", limits.rows, MAX_ROWS),
        ("a number of KV heads", config.n_kv_heads, MAX_ROWS),
        ("a vocabulary", config.vocab_size, MAX_MATRIX_ROWS),
    ] {
        if got > max {
            return Err(CudaError::Unsupported { what, got, max });
        }
    }
    Ok(())
}

/// What there is to say where nothing goes on a device.
pub fn nothing_fits(opened: &Opened) -> String {
    let device = &opened.device;
    let free = device.free_memory().unwrap_or(0);
    format!(
        "-ngl auto: everything is on the CPU, no layer fits on {}, which has {free} bytes free",
        device.info().name
    )
}
