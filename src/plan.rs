//! The memory that a session takes, told before anything of it is allocated.

use chaski_models::Config;
use serde::Serialize;

use crate::{
    backend::{
        GpuLayers, Placement,
        cpu::{CpuBackend, CpuBytes, PassLimits},
        cuda::{self, DeviceBytes},
    },
    model::Model,
    session::{SessionError, SessionOptions, limits, own_bytes},
};

/// Bytes on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuPlan {
    /// The GPU, if one was asked for its free memory.
    pub name: Option<String>,
    /// Bytes that it has free.
    pub free: Option<u64>,
    /// Layers there, the last ones.
    pub layers: usize,
    /// Whether the head is there too.
    pub head: bool,
    /// Bytes that these take.
    #[serde(flatten)]
    pub bytes: DeviceBytes,
    /// All of them.
    pub total: u64,
}

/// Bytes, by what they are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Positions of the context.
    pub context_len: usize,
    /// Threads.
    pub threads: usize,
    /// Positions computed at once.
    pub ubatch: usize,
    /// Weights, mapped from the file: shared with every process that runs it, and given back by the
    /// system when memory is short.
    pub weights_mapped: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Activations and logits that all threads share.
    pub activations: u64,
    /// What each thread has for itself, all threads together.
    pub scratch: u64,
    /// All but the weights.
    pub total_private: u64,
    /// What is on a GPU, beside all this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuPlan>,
    /// Lines for the user: what was decided without being an error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What [`Session::new`](crate::Session::new) would allocate.
///
/// A GPU is only looked for where it is to say how much memory it has free
/// ([`GpuLayers::Auto`](crate::backend::GpuLayers)).
///
/// # Errors
///
/// An option is out of its range, or the GPU that was found did not answer.
pub fn plan(model: &Model, options: &SessionOptions) -> Result<MemoryPlan, SessionError> {
    let file_len = model.weights().container().file_len();
    let (limits, logit_rows) = limits(model.config(), options)?;
    let n_layers = model.config().n_layers;
    let (mut name, mut free, mut notes) = (None, None, Vec::new());
    let placement = match options.gpu_layers {
        GpuLayers::Count(n) => Placement::of_count(n_layers, n),
        GpuLayers::All => Placement::of_count(n_layers, usize::MAX),
        GpuLayers::Auto => match cuda::open_or_note(&mut notes) {
            None => Placement::cpu(n_layers),
            Some(device) => {
                let refused = |source| SessionError::Cuda {
                    gpu_layers: options.gpu_layers,
                    source,
                };
                let weights = model.weights();
                let placement =
                    cuda::place(&device, weights, &limits, options.gpu_layers).map_err(refused)?;
                if !placement.uses_gpu() {
                    notes.push(cuda::nothing_fits(&device));
                }
                name = Some(device.device.info().name.clone());
                free = device.device.free_memory().ok().map(|free| free as u64);
                placement
            }
        },
    };
    let gpu = placement.uses_gpu().then(|| {
        let bytes = cuda::bytes(model.weights(), &limits, &placement);
        GpuPlan {
            name,
            free,
            layers: placement.gpu_layers,
            head: placement.gpu_head,
            total: bytes.total(),
            bytes,
        }
    });
    let plan = on_cpu(model.config(), file_len, &limits, logit_rows, &placement);
    Ok(MemoryPlan { gpu, notes, ..plan })
}

/// As [`plan`], for a model that is not converted yet: of its config, and the bytes that its file is
/// going to have. On the CPU alone: what a layer takes is not known.
///
/// # Errors
///
/// An option is out of its range.
pub fn plan_config(
    config: &Config,
    file_len: u64,
    options: &SessionOptions,
) -> Result<MemoryPlan, SessionError> {
    let (limits, logit_rows) = limits(config, options)?;
    let placement = Placement::cpu(config.n_layers);
    Ok(on_cpu(config, file_len, &limits, logit_rows, &placement))
}

/// What is on the CPU of it.
fn on_cpu(
    config: &Config,
    file_len: u64,
    limits: &PassLimits,
    logit_rows: usize,
    placement: &Placement,
) -> MemoryPlan {
    let CpuBytes {
        kv_cache,
        activations,
        scratch,
    } = CpuBackend::bytes_with_layers(config, limits, placement.cpu_layers());
    let activations = activations + own_bytes(config, limits, logit_rows);
    MemoryPlan {
        context_len: limits.context_len,
        threads: limits.threads,
        ubatch: limits.rows,
        weights_mapped: file_len,
        kv_cache,
        activations,
        scratch,
        total_private: kv_cache + activations + scratch,
        gpu: None,
        notes: Vec::new(),
    }
}
