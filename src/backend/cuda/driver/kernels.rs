//! The kernels of a device, which the driver compiles when they are asked for.

use std::{ffi::CString, sync::Arc};

use cudarc::driver::{DriverError, sys};

use super::{
    super::{args::Kernel, ptx},
    PLAIN_SHARED,
    owned::{Module, Stream},
};

/// The kernels that have been compiled.
#[derive(Default)]
pub(super) struct Kernels {
    functions: Vec<Function>,
    // The functions' code, by its name in `ptx::MODULES`. Dropped after them.
    modules: Vec<(&'static str, Module)>,
}

/// A kernel.
pub(super) struct Function {
    kernel: Kernel,
    pub(super) function: sys::CUfunction,
    /// Dynamic shared memory that it may have.
    pub(super) shared: u32,
}

// SAFETY: the driver's handles may be used from any thread, one after the other or at once (CUDA driver API, "Thread
// safety"); each call makes its context the thread's own first.
unsafe impl Send for Function {}

/// What the driver refused.
pub(super) struct Refused {
    /// The call.
    pub(super) call: &'static str,
    /// The code or the kernel.
    pub(super) what: &'static str,
    pub(super) error: DriverError,
}

impl Kernels {
    /// Compiles the code that has `kernel`, unless that is done, or finds it in the driver's cache.
    pub(super) fn load(&mut self, stream: &Arc<Stream>, kernel: Kernel) -> Result<(), Refused> {
        if self.get(kernel).is_some() {
            return Ok(());
        }
        let what = kernel.entry();
        let refused = |call, what| move |error| Refused { call, what, error };
        // A test has it that each kernel is in one of them.
        let module = ptx::MODULES.iter().find(|m| ptx::has_entry(m.1, what));
        let (name, text) = *module.unwrap_or(&ptx::MODULES[0]);
        let loaded = self.modules.iter().position(|m| m.0 == name);
        let at = match loaded {
            Some(at) => at,
            None => {
                let module =
                    Module::load(stream, text).map_err(refused("cuModuleLoadData", name))?;
                self.modules.push((name, module));
                self.modules.len() - 1
            }
        };
        let entry = CString::new(what).unwrap_or_default();
        let function = self.modules[at].1.function(entry);
        self.functions.push(Function {
            kernel,
            function: function.map_err(refused("cuModuleGetFunction", what))?,
            shared: PLAIN_SHARED,
        });
        Ok(())
    }

    /// A kernel that was loaded.
    pub(super) fn get(&mut self, kernel: Kernel) -> Option<&mut Function> {
        self.functions.iter_mut().find(|f| f.kernel == kernel)
    }
}
