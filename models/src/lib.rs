//! What a model is.
//!
//! * [`Config`]: the hyperparameters; [`arch`]: the architectures, as data.
//! * [`tensors`]: roles, names, shapes and order of the tensors.
//! * [`rope`]: the frequencies of the rotary embedding.
//! * [`forward`]: the one forward pass, which backends implement phase by phase.
//! * [`tokenizer`]: text to tokens and back.
//! * [`chat`]: a conversation to the text that a model was trained on.
//! * [`metadata`]: what the JSON section of a container holds.
//! * [`tokenizer`]: text to tokens and back.
//! * [`TokenId`]: a token's number.
//!
//! ```
//! use chaski_models::{Config, tensor_table};
//!
//! let json = serde_json::json!({
//!     "architectures": ["LlamaForCausalLM"],
//!     "hidden_size": 2048,
//!     "intermediate_size": 8192,
//!     "num_hidden_layers": 16,
//!     "num_attention_heads": 32,
//!     "num_key_value_heads": 8,
//!     "vocab_size": 128256,
//!     "max_position_embeddings": 131072,
//!     "rope_theta": 500000.0,
//!     "tie_word_embeddings": true,
//!     "model_type": "llama",
//! });
//! let config = Config::from_hf(&json)?;
//! let n: usize = tensor_table(&config).iter().map(|t| t.n_weights()).sum();
//! assert_eq!(n, 1_235_814_400);
//! # Ok::<(), chaski_models::ConfigError>(())
//! ```
//!
//! Limits: decoders of the Llama family, as [`arch`] lists them; text only. What a config asks for
//! beyond that is an error that names the field.
//!
//! With the feature `testing`: `testing`, seeded tiny models, and `reference`, the oracle of a whole
//! model.

pub mod arch;
pub mod certificate;
pub mod chat;
pub mod config;
pub mod forward;
pub mod metadata;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod rope;
pub mod self_test;
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
