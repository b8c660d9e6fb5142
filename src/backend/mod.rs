//! The machines that a pass can run on.
//!
//! * [`cpu`]: the team of threads; every model has its embeddings there.
//! * [`cuda`]: an NVIDIA GPU, which a model's last layers can be on.
//! * [`placement`]: which layers are where; [`split`]: a pass over both.

pub mod cpu;
pub mod cuda;
pub mod placement;
pub mod split;

pub use placement::{GpuLayers, Placement};
pub use split::SplitBackend;
