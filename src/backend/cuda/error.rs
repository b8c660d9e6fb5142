//! Why layers cannot be on a device.

use std::{error::Error, fmt};

use chaski_quant::QuantType;

use super::device::DeviceError;

/// Why layers cannot be on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaError {
    /// This program was built without the feature `cuda`.
    NotBuilt,
    /// The CUDA driver's library is not there.
    NoDriver,
    /// The driver found no device, or none that the process may use.
    NoDevice {
        /// What it says.
        message: String,
    },
    /// The driver is older than what this program calls.
    OldDriver {
        /// Its CUDA version, major and minor.
        version: (u32, u32),
        /// The least one.
        least: (u32, u32),
    },
    /// The device lacks the instructions that the kernels are made of.
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability, major and minor.
        capability: (u32, u32),
        /// The least one.
        least: (u32, u32),
    },
    /// The driver says of a device what none is like: it may be another maker's in the place of NVIDIA's.
    OddDevice {
        /// Its name.
        name: String,
        /// What there are so many of.
        what: &'static str,
        /// How many.
        got: u32,
        /// The fewest and the most that there may be.
        expected: (u32, u32),
    },
    /// The driver does not take the kernels.
    Kernels {
        /// What it says.
        message: String,
    },
    /// The kernels are not made for such a model or session.
    Unsupported {
        /// What it is of it.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The largest one.
        max: usize,
    },
    /// There are no kernels for one of the model's quant types.
    NoKernel {
        /// The type.
        qtype: QuantType,
    },
    /// What was asked for does not fit into the device's memory.
    DoesNotFit {
        /// The device.
        name: String,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// What would fit, as a number for `-ngl`.
        fits: usize,
    },
    /// A call of the device failed while everything was prepared.
    Device {
        /// The device.
        name: String,
        /// What was being done.
        what: String,
        /// The cause.
        source: DeviceError,
    },
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt => f.write_str(
                "this program was built without the feature `cuda`: build it with \
                 `cargo build --release --features cuda`",
            ),
            Self::NoDriver => f.write_str(
                "there is no CUDA driver: its library (libcuda.so.1, nvcuda.dll) was not found",
            ),
            Self::NoDevice { message } => write!(
                f,
                "the CUDA driver has no GPU for this process: {message}; is CUDA_VISIBLE_DEVICES set?"
            ),
            Self::OldDriver { version, least } => write!(
                f,
                "the CUDA driver is of version {}.{}: expected {}.{} or later, update it",
                version.0, version.1, least.0, least.1
            ),
            Self::OldDevice {
                name,
                capability,
                least,
            } => write!(
                f,
                "{name} has compute capability {}.{}: expected {}.{} or later",
                capability.0, capability.1, least.0, least.1
            ),
            Self::Kernels { message } => {
                write!(f, "the CUDA driver does not take the kernels: {message}")
            }
            Self::OddDevice {
                name,
                what,
                got,
                expected: (least, most),
            } => write!(
                f,
                "{name} has {got} {what}, says the CUDA driver: expected {least} to {most}"
            ),
            Self::Unsupported { what, got, max } => {
                write!(f, "{what} of {got}: the kernels go up to {max}")
            }
            Self::NoKernel { qtype } => write!(
                f,
                "the model has matrices of type {qtype}, for which there are no kernels on a GPU: run it on the CPU (-ngl 0)"
            ),
            Self::DoesNotFit {
                name,
                needed,
                free,
                fits,
            } => write!(
                f,
                "it takes {needed} bytes of memory and {name} has {free} free: -ngl {fits} fits, and \
                 so may more with a smaller context (-c) or batch (--ubatch-size)"
            ),
            Self::Device { name, what, .. } => write!(f, "{name} failed at {what}"),
        }
    }
}

impl Error for CudaError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Device { source, .. } => Some(source),
            _ => None,
        }
    }
}
