//! A model's last layers on a device.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use chaski_models::{BackendError, Row, forward::kv::KvGeometry, forward::walk};
use chaski_quant::scalar::attention::KvType;

use super::{
    Opened,
    args::{Kernel, MATVEC_ROWS, ReadProbeArgs},
    buffers::{Buffers, Sizes},
    device::{Buffer, Device, DeviceError, Graph, Launch},
    error::CudaError,
    input::{Counts, Input},
    place::{self, DeviceBytes, failed},
    walk::Walk,
    weights::{HeadAt, LayerAt, copy_head, copy_layer},
};
use crate::{
    backend::{
        cpu::{
            PassLimits,
            kv::{PageCopy, PageTable},
        },
        placement::Placement,
    },
    model::Model,
};

/// Recorded passes that are kept.
const MAX_GRAPHS: usize = 64;

/// The probe of the device's memory goes on for so long, and at least [`MIN_ROUNDS`] times.
const PROBE_TIME: Duration = Duration::from_millis(200);
const MIN_ROUNDS: usize = 3;

/// What a device has of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSummary {
    /// Its name.
    pub name: String,
    /// Devices that there are, of which it is one.
    pub n_devices: usize,
    /// Bytes that were free before.
    pub free: u64,
    /// Bytes that were taken.
    pub bytes: DeviceBytes,
    /// How long it took to copy the weights.
    pub upload: Duration,
}

/// A pass that may be recorded.
enum Recorded {
    /// It has been seen, once: what comes only once is not worth recording.
    Seen,
    /// It was recorded.
    Graph(Box<dyn Graph>),
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "Seen",
            Self::Graph(_) => "Graph",
        })
    }
}

/// A model's last layers, and maybe its head, on a device.
///
/// Everything is allocated when it is made. Passes of few rows are recorded when they come a second time
/// and then started as one: what differs from pass to pass lies in the device's memory.
#[derive(Debug)]
pub struct DeviceLayers {
    // In the order in which they are dropped.
    graphs: HashMap<Counts, Recorded>,
    input: Input,
    buffers: Buffers,
    kv: Buffer,
    weights: Vec<Buffer>,
    layers: Vec<LayerAt>,
    head: Option<HeadAt>,
    geometry: KvGeometry,
    sizes: Sizes,
    placement: Placement,
    summary: DeviceSummary,
    model: Arc<Model>,
    rounded: bool,
    /// Bytes that came from the device.
    down: Vec<u8>,
    device: Box<dyn Device>,
}

impl DeviceLayers {
    /// Allocates everything and copies the weights.
    ///
    /// # Errors
    ///
    /// A call of the device failed.
    pub(crate) fn new(
        opened: Opened,
        model: &Arc<Model>,
        limits: &PassLimits,
        placement: &Placement,
    ) -> Result<Self, CudaError> {
        let Opened { device, n_devices } = opened;
        let (weights, config) = (model.weights(), model.config());
        let dev = &*device;
        let free = dev
            .free_memory()
            .map_err(failed(dev, "telling its free memory"))? as u64;
        let geometry = place::geometry(config, limits, placement.gpu_layers);
        let sizes = Sizes::new(config, limits, placement);
        let kv_bytes = place::n_pages(limits) * geometry.page_bytes();
        let kv = dev
            .alloc(kv_bytes)
            .map_err(failed(dev, "allocating the KV cache"))?;
        let buffers = Buffers::new(dev, &sizes).map_err(failed(dev, "allocating buffers"))?;
        let begin = Instant::now();
        let (mut held, mut layers) = (Vec::new(), Vec::new());
        for layer in placement.cpu_layers()..placement.n_layers {
            let what = format!("copying the weights of layer {layer}");
            let copied = copy_layer(dev, weights, layer).map_err(failed(dev, what))?;
            held.push(copied.0);
            layers.push(copied.1);
        }
        let mut head = None;
        if placement.gpu_head {
            let copied = copy_head(dev, weights);
            let copied = copied.map_err(failed(dev, "copying the weights of the head"))?;
            held.push(copied.0);
            head = Some(copied.1);
        }
        // While the last weights are on their way.
        dev.prepare(&kernels(&layers, head.as_ref(), limits.kv_type))
            .map_err(failed(dev, "compiling the kernels"))?;
        dev.synchronize()
            .map_err(failed(dev, "copying the weights"))?;
        let summary = DeviceSummary {
            name: dev.info().name.clone(),
            n_devices,
            free,
            bytes: place::bytes(weights, limits, placement),
            upload: begin.elapsed(),
        };
        Ok(Self {
            graphs: HashMap::new(),
            input: Input::new(&sizes, config, limits.n_seqs),
            buffers,
            kv,
            weights: held,
            layers,
            head,
            geometry,
            sizes,
            placement: *placement,
            summary,
            model: Arc::clone(model),
            rounded: false,
            down: Vec::new(),
            device,
        })
    }

    /// What is on the device.
    pub(crate) const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The device, and what it has.
    pub(crate) const fn summary(&self) -> &DeviceSummary {
        &self.summary
    }

    /// As [`CpuBackend::round_activations`](crate::backend::cpu::CpuBackend::round_activations).
    pub(crate) fn round_activations(&mut self, rounded: bool) {
        if self.rounded != rounded {
            self.graphs.clear();
        }
        self.rounded = rounded;
    }

    /// Starts a pass.
    ///
    /// * `copies`: pages to copy first. `pages`: those of the rows' sequences.
    /// * `x`: what enters the first layer of the device, `[rows, dim]`; `rope`: the rows' rotations.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub(crate) fn forward(
        &mut self,
        rows: &[Row],
        pages: &PageTable,
        copies: &[PageCopy],
        x: &[f32],
        rope: &[f32],
    ) -> Result<(), BackendError> {
        self.try_forward(rows, pages, copies, x, rope)
            .map_err(|e| self.error(&e))
    }

    fn try_forward(
        &mut self,
        rows: &[Row],
        pages: &PageTable,
        copies: &[PageCopy],
        x: &[f32],
        rope: &[f32],
    ) -> Result<(), DeviceError> {
        let n = self.geometry.page_bytes();
        for copy in copies {
            let at = |page: u32| (&self.kv, page as usize * n);
            self.device.copy(at(copy.to), at(copy.from), n)?;
        }
        let config = self.model.config();
        self.input.set(&self.sizes, config, rows, pages, x, rope);
        self.device
            .upload(&self.buffers.input, 0, self.input.bytes())?;
        let counts = *self.input.counts();
        if rows.len() > MATVEC_ROWS as usize || counts.blocks > 0 {
            return self.start();
        }
        match self.graphs.get(&counts) {
            Some(Recorded::Graph(graph)) => graph.replay(),
            None => {
                if self.graphs.len() >= MAX_GRAPHS {
                    self.graphs.clear();
                }
                self.graphs.insert(counts, Recorded::Seen);
                self.start()
            }
            Some(Recorded::Seen) => {
                let graph = self.device.capture(&mut || self.start())?;
                graph.replay()?;
                self.graphs.insert(counts, Recorded::Graph(graph));
                Ok(())
            }
        }
    }

    /// Starts all launches of a pass.
    fn start(&self) -> Result<(), DeviceError> {
        walk(self.layers.len(), &mut self.walk())
    }

    fn walk(&self) -> Walk<'_> {
        Walk {
            device: &*self.device,
            config: self.model.config(),
            first_layer: self.placement.cpu_layers(),
            layers: &self.layers,
            head: self.head.as_ref(),
            geometry: self.geometry,
            kv: &self.kv,
            buffers: &self.buffers,
            counts: *self.input.counts(),
            offsets: *self.input.offsets(),
            head_rows: self.sizes.head_rows,
            rounded: self.rounded,
        }
    }

    /// Waits for the pass and fetches the logits of all rows that want some.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub(crate) fn logits(&mut self, logits: &mut [f32]) -> Result<(), BackendError> {
        let most = self.sizes.head_rows;
        let chunk = most.max(1) * self.model.config().vocab_size;
        let again = self.input.counts().head > most;
        for (i, logits) in logits.chunks_mut(chunk).enumerate() {
            let n = logits.len() / self.model.config().vocab_size;
            let made = match again {
                true => self.walk().logits(i * most, n),
                false => Ok(()),
            };
            made.and_then(|()| {
                fetch(
                    &*self.device,
                    &self.buffers.logits,
                    0,
                    logits,
                    &mut self.down,
                )
            })
            .map_err(|e| self.error(&e))?;
        }
        Ok(())
    }

    /// Waits for the pass and fetches what left its last layer, of all rows that want logits:
    /// `[head rows, dim]`.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub(crate) fn hidden(&mut self, hidden: &mut [f32]) -> Result<(), BackendError> {
        let dim = self.model.config().dim;
        let wanted = self.input.head_rows();
        let (mut rest, mut i) = (hidden, 0);
        while i < wanted.len() {
            // Rows that lie together are one copy.
            let first = wanted[i];
            let run = wanted[i..].iter().zip(first..);
            let n = run.take_while(|(row, next)| **row == *next).count();
            let (to, behind) = rest.split_at_mut(n * dim);
            let at = self.input.offsets().x + size_of::<f32>() * first as usize * dim;
            fetch(&*self.device, &self.buffers.input, at, to, &mut self.down)
                .map_err(|e| self.error(&e))?;
            (rest, i) = (behind, i + n);
        }
        Ok(())
    }

    /// Waits for the pass.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub(crate) fn finish(&mut self) -> Result<(), BackendError> {
        self.device.synchronize().map_err(|e| self.error(&e))
    }

    /// 10^9 bytes per second at which the device reads all weights that it has, by a kernel that does
    /// nothing else: the best of some rounds.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub(crate) fn read_bandwidth(&self) -> Result<f64, BackendError> {
        self.probe().map_err(|e| self.error(&e))
    }

    fn probe(&self) -> Result<f64, DeviceError> {
        let device = &*self.device;
        let shape = ReadProbeArgs::shape(device.info());
        let out = device.alloc(size_of::<u32>() * shape.grid[0] as usize)?;
        let round = device.capture(&mut || {
            for weights in &self.weights {
                let args = ReadProbeArgs {
                    data: weights.address(),
                    n: weights.len() as u64 / 16,
                    out: out.address(),
                };
                device.launch(&Launch::new(Kernel::ReadProbe, shape, &args))?;
            }
            Ok(())
        })?;
        let bytes: usize = self.weights.iter().map(Buffer::len).sum();
        let (begin, mut best, mut rounds) = (Instant::now(), f64::INFINITY, 0);
        while rounds < MIN_ROUNDS || begin.elapsed() < PROBE_TIME {
            let from = Instant::now();
            round.replay()?;
            device.synchronize()?;
            best = best.min(from.elapsed().as_secs_f64());
            rounds += 1;
        }
        Ok(bytes as f64 / best.max(1e-9) / 1e9)
    }

    fn error(&self, error: &DeviceError) -> BackendError {
        BackendError::Device {
            name: self.summary.name.clone(),
            message: error.to_string(),
        }
    }
}

/// The kernels that passes need.
fn kernels(layers: &[LayerAt], head: Option<&HeadAt>, kv_type: KvType) -> Vec<Kernel> {
    let mut kernels = vec![
        Kernel::NormQuantize,
        Kernel::Quantize,
        Kernel::Swiglu,
        Kernel::RopeStore,
        Kernel::Attend(kv_type),
        Kernel::AttendMerge,
        Kernel::AttendRows(kv_type),
        Kernel::ReadProbe,
    ];
    let of_layers = layers.iter().flat_map(LayerAt::matrices);
    for matrix in of_layers.chain(head.map(|head| &head.output)) {
        let of_type: &[Kernel] = if matrix.qtype.is_quantized() {
            &[Kernel::Matvec(matrix.qtype), Kernel::Matmul(matrix.qtype)]
        } else {
            &[Kernel::MatrixFloat(matrix.qtype)]
        };
        if !kernels.contains(&of_type[0]) {
            kernels.extend(of_type);
        }
    }
    kernels
}

/// Copies floats from byte `at` of `from`.
fn fetch(
    device: &dyn Device,
    from: &Buffer,
    at: usize,
    to: &mut [f32],
    bytes: &mut Vec<u8>,
) -> Result<(), DeviceError> {
    bytes.resize(size_of_val(to), 0);
    device.download(from, at, bytes)?;
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = f32::from_le_bytes(*bytes);
    }
    Ok(())
}
