//! An NVIDIA GPU.
//!
//! * [`args`]: the kernels, what they are handed, how they are launched; `kernels/`: the kernels themselves.
//! * [`device`]: what the backend asks of a device.

pub mod args;
pub mod device;
