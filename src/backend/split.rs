//! A model on the CPU alone, or on the CPU and then on a GPU.
//!
//! A pass is one walk: the CPU embeds the rows and computes the first layers, their hidden states go
//! to the GPU, which computes the last layers. What comes back are logits where the GPU has the head
//! too, else hidden states, of the rows whose logits are wanted, to which the CPU applies the head.
//! Positions, pages and sequences are those of one page table, the CPU's; each machine has the keys
//! and values of its own layers.

use std::sync::Arc;

use chaski_models::{Backend, BackendError, Row, forward::n_logits};

use super::{
    cpu::{CpuBackend, PassLimits, Team},
    cuda::{CudaError, DeviceLayers, DeviceSummary, Opened},
    placement::Placement,
};
use crate::model::Model;

/// The machines of a session.
#[derive(Debug)]
pub struct SplitBackend {
    cpu: CpuBackend,
    device: Option<DeviceLayers>,
    /// What went wrong with the device, once something did: what it holds is not known any more.
    failed: Option<BackendError>,
}

impl SplitBackend {
    /// All of a model on the CPU.
    pub fn cpu(model: &Arc<Model>, limits: &PassLimits, team: Team) -> Self {
        Self {
            cpu: CpuBackend::with_team(model, limits, team),
            device: None,
            failed: None,
        }
    }

    /// The last layers of a model on `device`, as `placement` says, the others on the CPU. Allocates
    /// everything, and copies the weights of those layers there.
    ///
    /// # Errors
    ///
    /// The device has not the memory, or a call of it failed.
    pub fn with_device(
        model: &Arc<Model>,
        limits: &PassLimits,
        team: Team,
        device: Opened,
        placement: &Placement,
    ) -> Result<Self, CudaError> {
        // The device first: it may say no.
        let device = DeviceLayers::new(device, model, limits, placement)?;
        Ok(Self {
            cpu: CpuBackend::with_layers(model, limits, team, placement.cpu_layers()),
            device: Some(device),
            failed: None,
        })
    }

    /// Where the layers are.
    pub fn placement(&self) -> Placement {
        match &self.device {
            Some(device) => *device.placement(),
            None => Placement::cpu(self.cpu.model().config().n_layers),
        }
    }

    /// The device that has some of the layers, if one has.
    pub fn device(&self) -> Option<&DeviceSummary> {
        self.device.as_ref().map(DeviceLayers::summary)
    }

    /// 10^9 bytes per second at which the device reads the weights that it has, if there is one.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub fn device_read_bandwidth(&mut self) -> Result<Option<f64>, BackendError> {
        let Some(device) = &mut self.device else {
            return Ok(None);
        };
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let rate = device.read_bandwidth();
        rate.map(Some)
            .inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// How large passes may be.
    pub const fn limits(&self) -> &PassLimits {
        self.cpu.limits()
    }

    /// As [`CpuBackend::round_activations`].
    pub fn round_activations(&mut self, rounded: bool) {
        self.cpu.round_activations(rounded);
        if let Some(device) = &mut self.device {
            device.round_activations(rounded);
        }
    }

    /// As [`CpuBackend::n_stored`].
    pub fn n_stored(&self, seq: usize) -> usize {
        self.cpu.n_stored(seq)
    }

    /// As [`CpuBackend::truncate`].
    pub fn truncate(&mut self, seq: usize, len: usize) {
        self.cpu.truncate(seq, len);
    }

    /// As [`CpuBackend::fork`].
    pub fn fork(&mut self, from: usize, to: usize, len: usize) {
        self.cpu.fork(from, to, len);
    }

    /// A pass over both machines, of rows that the CPU was prepared for.
    fn walk(
        cpu: &mut CpuBackend,
        device: &mut DeviceLayers,
        rows: &[Row],
        logits: &mut [f32],
    ) -> Result<(), Failure> {
        cpu.forward_layers(rows).map_err(Failure::Pass)?;
        let (x, rope) = (cpu.hidden(), cpu.rotations());
        let failed = Failure::Device;
        device
            .forward(rows, cpu.pages(), cpu.copies(), x, rope)
            .map_err(failed)?;
        let n = n_logits(rows);
        if device.placement().gpu_head {
            device.logits(logits).map_err(failed)?;
            return first_not_finite(rows, logits, cpu.model().config().vocab_size);
        }
        // Of passes that are parts of a long text nobody wants anything but keys and values.
        if n == 0 {
            return device.finish().map_err(failed);
        }
        device.hidden(cpu.hidden_mut(n)).map_err(failed)?;
        cpu.forward_head(n, logits)
            .map_err(|e| Failure::Pass(of_row(rows, e)))
    }
}

/// Why a pass failed.
enum Failure {
    /// The device failed: what it holds is not known any more.
    Device(BackendError),
    /// Anything else: the pass did not happen.
    Pass(BackendError),
}

/// An error of the head alone, whose rows are those with logits, told of the pass's rows.
fn of_row(rows: &[Row], error: BackendError) -> BackendError {
    match error {
        BackendError::NotFinite { row, token } => BackendError::NotFinite {
            row: head_row(rows, row),
            token,
        },
        error => error,
    }
}

/// The `n`th row that wants logits.
fn head_row(rows: &[Row], n: usize) -> usize {
    let mut wanted = (0..rows.len()).filter(|&i| rows[i].logits);
    wanted.nth(n).unwrap_or(rows.len())
}

/// An error for the first logit that is not finite.
fn first_not_finite(rows: &[Row], logits: &[f32], vocab_size: usize) -> Result<(), Failure> {
    match logits.iter().position(|l| !l.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Failure::Pass(BackendError::NotFinite {
            row: head_row(rows, at / vocab_size),
            token: ((at % vocab_size) as u32).into(),
        })),
    }
}

impl Backend for SplitBackend {
    fn forward(&mut self, rows: &[Row], logits: &mut [f32]) -> Result<(), BackendError> {
        let Some(device) = &mut self.device else {
            return self.cpu.forward(rows, logits);
        };
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.cpu.prepare(rows, logits.len())?;
        Self::walk(&mut self.cpu, device, rows, logits).map_err(|failure| {
            self.cpu.forget(rows);
            match failure {
                Failure::Device(error) => {
                    self.failed = Some(error.clone());
                    error
                }
                Failure::Pass(error) => error,
            }
        })
    }
}
