//! What a session is asked to allocate, and the sizes that stands for.

use chaski_models::Config;
use chaski_quant::scalar::attention::KvType;

use super::SessionError;
use crate::{
    backend::{GpuLayers, cpu::PassLimits},
    os,
};

/// The default of [`SessionOptions::context_len`], where the model allows as many.
pub const DEFAULT_CONTEXT: usize = 4096;
/// The largest context that can be asked for.
pub const MAX_CONTEXT: usize = 1 << 24;

/// What a session allocates.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Positions to allocate; `None`: the model's own number, at most [`DEFAULT_CONTEXT`].
    pub context_len: Option<usize>,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Positions computed at once while a text is read.
    pub ubatch: usize,
    /// Threads; `None`: as many as `cpus`, or the physical cores this process may use.
    pub threads: Option<usize>,
    /// Processors that the threads are bound to, one each; empty: the system places them. The first
    /// is for the thread that reads the first text.
    pub cpus: Vec<usize>,
    /// Texts that can be held at once; see [`Session::fork`](super::Session::fork).
    pub sequences: usize,
    /// Rows of a pass whose logits can be asked for; 1 serves all but evaluation.
    pub logit_rows: usize,
    /// Lets float matrices multiply 8-bit activations, as quantised matrices do: what these cost by
    /// themselves. For evaluation.
    pub round_activations: bool,
    /// What goes to a GPU.
    pub gpu_layers: GpuLayers,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            context_len: None,
            kv_type: KvType::F16,
            ubatch: 256,
            threads: None,
            cpus: Vec::new(),
            sequences: 1,
            logit_rows: 1,
            round_activations: false,
            gpu_layers: GpuLayers::NONE,
        }
    }
}

/// The sizes that `options` stand for: of the backend, and the rows of logits.
pub(crate) fn limits(
    config: &Config,
    options: &SessionOptions,
) -> Result<(PassLimits, usize), SessionError> {
    let check = |what, got: usize, max: usize| {
        if (1..=max).contains(&got) {
            Ok(got)
        } else {
            Err(SessionError::Option { what, got, max })
        }
    };
    let context = options
        .context_len
        .unwrap_or_else(|| config.max_seq_len.min(DEFAULT_CONTEXT));
    let context_len = check("a context", context, MAX_CONTEXT)?;
    let threads = options.threads.unwrap_or_else(|| match options.cpus.len() {
        0 => os::default_threads(),
        n => n,
    });
    let rows = check("a batch", options.ubatch, 1 << 16)?.min(context_len);
    let n_seqs = check("a number of sequences", options.sequences, 1 << 12)?;
    let logit_rows = check("a number of logit rows", options.logit_rows, 1 << 16)?;
    // A step of all sequences is one pass.
    let rows = rows.max(n_seqs);
    let logit_rows = logit_rows.max(n_seqs).min(rows);
    let limits = PassLimits {
        rows,
        n_seqs,
        context_len,
        threads: check("a number of threads", threads, 1024)?,
        kv_type: options.kv_type,
    };
    Ok((limits, logit_rows))
}
