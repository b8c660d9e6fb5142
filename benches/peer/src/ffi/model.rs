//! A model that llama.cpp runs.

use std::{
    ffi::{CStr, c_char, c_void},
    fmt, mem,
    path::Path,
    ptr::{self, NonNull},
    sync::Arc,
};

use super::{VERSION, c_path, llama, text};
use crate::PeerError;

/// `libllama.so` with a CPU backend.
#[derive(Clone)]
pub struct LlamaCpp {
    /// Never unloaded: threads of its backend may outlive a context.
    lib: &'static llama::Llama,
    threadpools: Threadpools,
    version: Arc<str>,
}

/// Functions of the CPU backend.
#[derive(Clone, Copy)]
struct Threadpools {
    new: unsafe extern "C" fn(*mut llama::ggml_threadpool_params) -> *mut llama::ggml_threadpool,
    free: unsafe extern "C" fn(*mut llama::ggml_threadpool),
}

/// Weights in memory.
pub struct LlamaModel {
    peer: LlamaCpp,
    at: NonNull<llama::llama_model>,
}

/// A KV cache with its threads. It keeps the model.
pub struct LlamaContext {
    at: NonNull<llama::llama_context>,
    /// Threads that stay, as llama-bench has them; without, they are started anew for each token.
    threads: NonNull<llama::ggml_threadpool>,
    model: LlamaModel,
    n_past: usize,
    options: ContextOptions,
}

/// What a context is made for.
#[derive(Clone, Copy, Debug)]
pub struct ContextOptions {
    /// Positions.
    pub context_len: usize,
    /// Threads, of prompts and of answers.
    pub threads: usize,
    /// Positions computed at once.
    pub ubatch: usize,
}

/// Drops what llama.cpp has to say.
unsafe extern "C" fn silent(_: llama::ggml_log_level, _: *const c_char, _: *mut c_void) {}

impl LlamaCpp {
    /// Loads the libraries in `dir`; `cpu` names the CPU backend (`haswell`), or ggml picks the best one for this
    /// machine.
    ///
    /// # Errors
    ///
    /// If they are not there, or are of another release than the bindings.
    pub fn open(dir: &Path, cpu: Option<&str>) -> Result<Self, PeerError> {
        let path = dir.join("libllama.so");
        // SAFETY: the user names the folder as llama.cpp's, whose initialisers may run. The types of the functions are
        // checked by the version below, before any with a struct is called.
        let lib = unsafe { llama::Llama::new(&path) }
            .map_err(|cause| PeerError::Library { path, cause })?;
        // SAFETY: these take nothing and return fixed texts.
        let (ggml, llama) = unsafe { (text(lib.ggml_version()), text(lib.llama_version())) };
        if ggml != VERSION {
            return Err(PeerError::Version {
                got: ggml,
                expected: VERSION,
            });
        }
        // SAFETY: the callback takes what it is declared with and touches nothing; no user data.
        unsafe { lib.llama_log_set(Some(silent), ptr::null_mut()) };
        match cpu {
            None => {
                let dir = c_path(dir)?;
                // SAFETY: a text with a zero at its end; the function loads what it finds.
                unsafe { lib.ggml_backend_load_all_from_path(dir.as_ptr()) };
            }
            Some(cpu) => {
                let path = dir.join(format!("libggml-cpu-{cpu}.so"));
                let c = c_path(&path)?;
                // SAFETY: a text with a zero at its end; null is returned where nothing could be loaded.
                if unsafe { lib.ggml_backend_load(c.as_ptr()) }.is_null() {
                    return Err(PeerError::Backend { path });
                }
            }
        }
        let threadpools = threadpools(&lib).ok_or_else(|| PeerError::Backend {
            path: dir.to_owned(),
        })?;
        // SAFETY: takes nothing.
        unsafe { lib.llama_backend_init() };
        Ok(Self {
            lib: Box::leak(Box::new(lib)),
            threadpools,
            version: format!("{llama}, ggml {ggml}").into(),
        })
    }

    /// The release.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What the CPU backend uses of the machine: `AVX2 = 1 | ...`.
    pub fn system_info(&self) -> String {
        // SAFETY: returns a text that the next call may change; this one copies it.
        unsafe { text(self.lib.llama_print_system_info()) }
    }

    /// Loads a GGUF file, all of it on the CPU.
    ///
    /// # Errors
    ///
    /// If llama.cpp cannot load it.
    pub fn load(&self, path: &Path) -> Result<LlamaModel, PeerError> {
        let c = c_path(path)?;
        // SAFETY: the defaults are a plain struct; the file's name ends with a zero. `VERSION` was compared, so the
        // struct has the layout that the library expects.
        let at = unsafe {
            let mut params = self.lib.llama_model_default_params();
            params.n_gpu_layers = 0;
            self.lib.llama_model_load_from_file(c.as_ptr(), params)
        };
        let at = NonNull::new(at).ok_or_else(|| PeerError::Model {
            path: path.to_owned(),
        })?;
        Ok(LlamaModel {
            peer: self.clone(),
            at,
        })
    }
}

/// The CPU backend's functions for threads.
fn threadpools(lib: &llama::Llama) -> Option<Threadpools> {
    // SAFETY: a text with a zero at its end; null where no CPU backend was loaded.
    let backend = unsafe { lib.ggml_backend_reg_by_name(c"CPU".as_ptr()) };
    if backend.is_null() {
        return None;
    }
    // SAFETY: the backend was just found; null where it has no such function.
    let find =
        |name: &CStr| unsafe { lib.ggml_backend_reg_get_proc_address(backend, name.as_ptr()) };
    let (new, free) = (find(c"ggml_threadpool_new"), find(c"ggml_threadpool_free"));
    if new.is_null() || free.is_null() {
        return None;
    }
    // SAFETY: the functions of these names have these types in the release that `VERSION` names.
    unsafe {
        Some(Threadpools {
            new: mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(
                    *mut llama::ggml_threadpool_params,
                ) -> *mut llama::ggml_threadpool,
            >(new),
            free: mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut llama::ggml_threadpool)>(
                free,
            ),
        })
    }
}

impl LlamaModel {
    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        let lib = self.peer.lib;
        // SAFETY: the model lives; its vocabulary does as long.
        let n = unsafe { lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.at.as_ptr())) };
        usize::try_from(n).unwrap_or_default()
    }

    /// `llama 1B Q4_K - Medium`.
    pub fn description(&self) -> String {
        let mut buffer = [0_u8; 256];
        let at = buffer.as_mut_ptr().cast::<c_char>();
        // SAFETY: the model lives; at most `buffer.len()` bytes are written, a zero the last of them.
        unsafe {
            self.peer
                .lib
                .llama_model_desc(self.at.as_ptr(), at, buffer.len())
        };
        CStr::from_bytes_until_nul(&buffer)
            .map_or_else(|_| String::new(), |s| s.to_string_lossy().into_owned())
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        // SAFETY: the model lives.
        unsafe { self.peer.lib.llama_model_size(self.at.as_ptr()) }
    }

    /// Makes a context, with an f16 KV cache.
    ///
    /// # Errors
    ///
    /// If llama.cpp cannot.
    pub fn context(self, options: ContextOptions) -> Result<LlamaContext, PeerError> {
        let lib = self.peer.lib;
        // SAFETY: plain structs by value; the backend lives as long as the process.
        let threads = unsafe {
            let mut params = lib.ggml_threadpool_params_default(options.threads as i32);
            (self.peer.threadpools.new)(&raw mut params)
        };
        let threads = NonNull::new(threads).ok_or(PeerError::Context)?;
        // SAFETY: the defaults are a plain struct; the model lives, and the context keeps it.
        let at = unsafe {
            let mut params = lib.llama_context_default_params();
            params.n_ctx = options.context_len as u32;
            params.n_batch = options.ubatch as u32;
            params.n_ubatch = options.ubatch as u32;
            params.n_threads = options.threads as i32;
            params.n_threads_batch = options.threads as i32;
            lib.llama_init_from_model(self.at.as_ptr(), params)
        };
        let Some(at) = NonNull::new(at) else {
            // SAFETY: made above, used by nobody.
            unsafe { (self.peer.threadpools.free)(threads.as_ptr()) };
            return Err(PeerError::Context);
        };
        // SAFETY: both live until the context is dropped.
        unsafe { lib.llama_attach_threadpool(at.as_ptr(), threads.as_ptr(), threads.as_ptr()) };
        Ok(LlamaContext {
            at,
            threads,
            model: self,
            n_past: 0,
            options,
        })
    }
}

impl LlamaContext {
    fn lib(&self) -> &'static llama::Llama {
        self.model.peer.lib
    }

    /// The model.
    pub fn model(&self) -> &LlamaModel {
        &self.model
    }

    /// Positions in the KV cache.
    pub fn len(&self) -> usize {
        self.n_past
    }

    /// Whether the KV cache is empty.
    pub fn is_empty(&self) -> bool {
        self.n_past == 0
    }

    /// Appends `tokens`; logits are those of the last one.
    ///
    /// # Errors
    ///
    /// If a token is not of the vocabulary, the context is full, or llama.cpp fails.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<(), PeerError> {
        let vocab_size = self.model.vocab_size();
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
            return Err(PeerError::Token { token, vocab_size });
        }
        if self.n_past + tokens.len() > self.options.context_len {
            return Err(PeerError::Full {
                context_len: self.options.context_len,
            });
        }
        for part in tokens.chunks(self.options.ubatch) {
            let mut part: Vec<llama::llama_token> = part.iter().map(|&t| t as i32).collect();
            // SAFETY: the context lives and is borrowed alone; the batch points to `part`, which outlives the call.
            let status = unsafe {
                let batch = self
                    .lib()
                    .llama_batch_get_one(part.as_mut_ptr(), part.len() as i32);
                self.lib().llama_decode(self.at.as_ptr(), batch)
            };
            if status != 0 {
                return Err(PeerError::Decode { status });
            }
            self.n_past += part.len();
        }
        // SAFETY: the context lives.
        unsafe { self.lib().llama_synchronize(self.at.as_ptr()) };
        Ok(())
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.n_past {
            return;
        }
        // SAFETY: the context lives and is borrowed alone.
        let done = unsafe {
            let memory = self.lib().llama_get_memory(self.at.as_ptr());
            self.lib().llama_memory_seq_rm(memory, 0, len as i32, -1)
        };
        if done {
            self.n_past = len;
        } else {
            self.clear();
        }
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        // SAFETY: the context lives and is borrowed alone.
        unsafe {
            let memory = self.lib().llama_get_memory(self.at.as_ptr());
            self.lib().llama_memory_clear(memory, false);
        }
        self.n_past = 0;
    }

    /// The logits after the last token; empty before any.
    pub fn logits(&self) -> Vec<f32> {
        if self.n_past == 0 {
            return Vec::new();
        }
        // SAFETY: the context lives; -1 is the last output, null where there is none.
        let at = unsafe { self.lib().llama_get_logits_ith(self.at.as_ptr(), -1) };
        if at.is_null() {
            return Vec::new();
        }
        // SAFETY: a row of logits has the vocabulary's length and stays until the next call that computes.
        unsafe { std::slice::from_raw_parts(at, self.model.vocab_size()) }.to_vec()
    }
}

impl Drop for LlamaModel {
    fn drop(&mut self) {
        // SAFETY: made by `load`, dropped once; no context is left, they own their model.
        unsafe { self.peer.lib.llama_model_free(self.at.as_ptr()) };
    }
}

impl Drop for LlamaContext {
    fn drop(&mut self) {
        // SAFETY: made by `context`, dropped once, before its model, which is a field; then nobody uses the threads.
        unsafe {
            self.lib().llama_free(self.at.as_ptr());
            (self.model.peer.threadpools.free)(self.threads.as_ptr());
        }
    }
}

impl fmt::Debug for LlamaCpp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamaCpp")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LlamaModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamaModel")
            .field("description", &self.description())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LlamaContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamaContext")
            .field("model", &self.model)
            .field("n_past", &self.n_past)
            .finish_non_exhaustive()
    }
}
