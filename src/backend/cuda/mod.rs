//! An NVIDIA GPU, which a model's last layers and its head can be on.
//!
//! * [`args`]: the kernels, what they are handed, how they are launched. `kernels/` is their source in CUDA C++, [`ptx`]
//!   what the driver takes.
//! * [`device`]: what the backend asks of a device. `driver` is the CUDA driver, looked for at run time;
//!   without the feature `cuda`, `disabled` stands in its place.
//! * `place`: what fits; `weights`, `buffers`: what lies on the device; `input`: what each pass sends
//!   there; `walk`: the phases as launches; `layers`: a pass.
//!
//! All results are to be the CPU's, bit for bit; see `docs/cuda.md`.

pub mod args;
mod buffers;
pub mod device;
#[cfg_attr(feature = "cuda", path = "driver/mod.rs")]
#[cfg_attr(not(feature = "cuda"), path = "disabled.rs")]
mod driver;
mod error;
mod input;
mod layers;
mod place;
pub mod ptx;
mod walk;
mod weights;

pub use device::{Device, DeviceError};
pub use driver::open;
pub use error::CudaError;
pub use layers::{DeviceLayers, DeviceSummary};
pub use place::{DeviceBytes, bytes, nothing_fits, place};

/// As [`open`], for who can do without: `None` and a line for the user where there is none that can be used.
pub fn open_or_note(notes: &mut Vec<String>) -> Option<Opened> {
    open()
        .inspect_err(|error| notes.push(format!("-ngl auto: everything is on the CPU, {error}")))
        .ok()
}

/// A device that was found.
#[derive(Debug)]
pub struct Opened {
    /// The device.
    pub device: Box<dyn Device>,
    /// Devices that there are, of which it is one.
    pub n_devices: usize,
}
