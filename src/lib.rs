//! Runs language models that [`chaski_convert`] made, from a memory map.

pub mod backend;
pub mod bench;
pub mod catalog;
pub mod eval;
pub mod generate;
pub mod model;
pub mod os;
pub mod plan;
pub mod sampler;
pub mod session;
pub mod stop;
pub mod weights;

pub use model::{Model, ModelError, ModelOptions};
pub use session::{Session, SessionError, SessionOptions};
