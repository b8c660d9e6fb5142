//! The memory that a session takes, told before anything of it is allocated.

use chaski_models::Config;
use serde::Serialize;

use crate::{
    backend::cpu::{CpuBackend, CpuBytes},
    model::Model,
    session::{SessionError, SessionOptions, limits, own_bytes},
};

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Positions of the context.
    pub context_len: usize,
    /// Threads.
    pub threads: usize,
    /// Positions computed at once.
    pub ubatch: usize,
    /// Weights, mapped from the file: shared with every process that runs it, and given back by the
    /// system when memory is short.
    pub weights_mapped: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Activations and logits that all threads share.
    pub activations: u64,
    /// What each thread has for itself, all threads together.
    pub scratch: u64,
    /// All but the weights.
    pub total_private: u64,
}

/// What [`Session::new`](crate::Session::new) would allocate.
///
/// # Errors
///
/// An option is out of its range.
pub fn plan(model: &Model, options: &SessionOptions) -> Result<MemoryPlan, SessionError> {
    let file_len = model.weights().container().file_len();
    plan_config(model.config(), file_len, options)
}

/// As [`plan`], for a model that is not converted yet: of its config, and the bytes that its file is
/// going to have.
///
/// # Errors
///
/// An option is out of its range.
pub fn plan_config(
    config: &Config,
    file_len: u64,
    options: &SessionOptions,
) -> Result<MemoryPlan, SessionError> {
    let (limits, logit_rows) = limits(config, options)?;
    let CpuBytes {
        kv_cache,
        activations,
        scratch,
    } = CpuBackend::bytes(config, &limits);
    let activations = activations + own_bytes(config, &limits, logit_rows);
    Ok(MemoryPlan {
        context_len: limits.context_len,
        threads: limits.threads,
        ubatch: limits.rows,
        weights_mapped: file_len,
        kv_cache,
        activations,
        scratch,
        total_private: kv_cache + activations + scratch,
    })
}
