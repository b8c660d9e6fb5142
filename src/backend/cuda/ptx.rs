//! The kernels as the driver takes them.

/// PTX; empty until the kernels are there.
pub(super) const TEXT: &str = "";
