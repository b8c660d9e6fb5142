//! A prebuilt ggml and llama.cpp as peers of chaski: the oracle of GGUF's block types and the opponent in benchmarks.
//!
//! Nothing of them is linked or built. Their libraries are loaded at run time from the folder that the environment
//! variable `CHASKI_GGML_DIR` names; `scripts/get-ggml.sh DIR` fetches them. Where the variable is not set,
//! [`folder`] says so, and tests skip what needs them.
//!
//! ```
//! use ggml_sys_bindgen::{Ggml, folder};
//!
//! if let Some(dir) = folder() {
//!     let ggml = Ggml::open(&dir)?;
//!     let q4_0 = ggml.type_info(2).unwrap();
//!     assert_eq!((&*q4_0.name, q4_0.block_len, q4_0.block_bytes), ("q4_0", 32, 18));
//!     let block = ggml.quantize(2, &[1.0; 32], 32)?;
//!     assert_eq!(ggml.dequantize(2, &block)?, [1.0; 32]);
//! }
//! # Ok::<(), ggml_sys_bindgen::PeerError>(())
//! ```
//!
//! * [`Ggml`]: any release since the type traits have their present form.
//! * [`LlamaCpp`]: the release of the bindings, [`VERSION`], and no other, since its functions take structs by value.
//!
//! The bindings in `src/ffi` are made by `scripts/generate.sh` and committed, so that a build needs no libclang.

mod error;
mod ffi;

pub use error::PeerError;
pub use ffi::{ContextOptions, Ggml, LlamaContext, LlamaCpp, LlamaModel, TypeInfo, VERSION};

use std::path::PathBuf;

/// The environment variable that names the folder of the libraries.
pub const FOLDER: &str = "CHASKI_GGML_DIR";

/// The folder of the libraries, where one is named.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER)
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}
