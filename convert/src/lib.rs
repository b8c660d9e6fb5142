//! Safetensors and GGUF checkpoints to chaski files.

pub mod source;
