//! What a model is.
//!
//! * [`Config`]: the hyperparameters; [`arch`]: the architectures, as data.
//! * [`tensors`]: roles, names, shapes and order of the tensors.
//! * [`rope`]: the frequencies of the rotary embedding.
//! * [`forward`]: the one forward pass, which backends implement phase by phase.
//! * [`metadata`]: what the JSON section of a container holds.
//! * [`tokenizer`]: text to tokens and back.
//! * [`TokenId`]: a token's number.
//!
//! With the feature `testing`: `testing`, seeded tiny models, and `reference`, the oracle of a whole
//! model.

pub mod arch;
pub mod config;
pub mod forward;
pub mod metadata;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod rope;
pub mod tensors;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod token_id;
pub mod tokenizer;

pub use arch::ArchId;
pub use config::{Config, ConfigError, RopeScaling};
pub use forward::{Backend, BackendError, Phases, Row, walk};
pub use metadata::ModelMetadata;
pub use tensors::{Role, TensorSpec, tensor_table};
pub use token_id::TokenId;
