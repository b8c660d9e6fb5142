//! The bindings, and safe calls of what chaski needs of them. All unsafe code of this crate is here.
#![allow(unsafe_code, reason = "calls of a C library")]

#[allow(missing_docs, missing_debug_implementations, non_camel_case_types, unreachable_pub, clippy::all)]
#[allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks, clippy::use_self, dead_code)]
#[rustfmt::skip]
mod ggml;
#[allow(missing_docs, missing_debug_implementations, non_camel_case_types, unreachable_pub, clippy::all)]
#[allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks, clippy::use_self, dead_code)]
#[rustfmt::skip]
mod llama;

mod base;
mod model;

pub use base::{Ggml, TypeInfo};
pub use model::{ContextOptions, LlamaContext, LlamaCpp, LlamaModel};

use std::{
    ffi::{CStr, CString, c_char},
    path::Path,
};

use crate::PeerError;

/// The release that the bindings were made from; structs that functions of llama.cpp take by value have its layout.
pub const VERSION: &str = "0.25.1";

/// The text at `at`, or nothing where that is null.
///
/// # Safety
///
/// `at` is null or points to a text with a zero at its end that nobody changes.
unsafe fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: the caller's contract.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_string_lossy().into_owned()
}

/// A path for a C function.
fn c_path(path: &Path) -> Result<CString, PeerError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    CString::new(bytes).map_err(|_| PeerError::Path {
        path: path.to_owned(),
    })
}
