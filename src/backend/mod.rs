//! The machines that a pass can run on.

pub mod cpu;
pub mod cuda;
