//! The CUDA driver as a [`Device`].
//!
//! Its library is opened when a layer is to go to a GPU, never before; nothing is linked. Each call that could panic
//! where the library lacks something is behind a check of its version.

#![allow(unsafe_code)] // calls of the driver

mod owned;
mod staging;

use std::{
    ffi::CString,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

use super::{
    CudaError, Opened,
    args::Kernel,
    device::{Buffer, Device, DeviceError, DeviceInfo, Graph, Launch},
    ptx,
};
use owned::{Context, Executable, Memory, Module, Stream};
use staging::Staging;

/// The oldest CUDA version of a driver, major and minor.
const LEAST_VERSION: (u32, u32) = (12, 0);
/// The least compute capability: `mma` of bytes with K = 32, asynchronous copies.
const LEAST_CAPABILITY: (u32, u32) = (8, 0);
/// Dynamic shared memory that a kernel may have without being told.
const PLAIN_SHARED: u32 = 48 << 10;

/// A GPU through its driver.
struct Driver {
    info: DeviceInfo,
    stream: Arc<Stream>,
    staging: Mutex<Staging>,
    functions: Vec<Function>,
    // The functions' code. Dropped after them.
    _modules: Vec<Module>,
}

/// A kernel.
struct Function {
    kernel: Kernel,
    function: sys::CUfunction,
    /// Dynamic shared memory that it may have.
    shared: AtomicU32,
}

// SAFETY: the driver's handles may be used from any thread, one after the other or at once (CUDA driver API, "Thread
// safety"); each call makes its context the thread's own first.
unsafe impl Send for Function {}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({})", self.info.name)
    }
}

/// Opens the first GPU that the driver shows; `CUDA_VISIBLE_DEVICES`, which the driver reads, chooses another.
///
/// # Errors
///
/// There is no driver or no GPU, one of them is too old, or the driver refuses.
pub fn open() -> Result<Opened, CudaError> {
    // SAFETY: opens the driver's library, as every program that uses the driver does; its initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    check_version()?;
    let no_device = |e: DriverError| CudaError::NoDevice { message: told(e) };
    result::init().map_err(no_device)?;
    let n_devices = result::device::get_count().map_err(no_device)?.max(0) as usize;
    if n_devices == 0 {
        return Err(CudaError::NoDevice {
            message: "it counts none".to_owned(),
        });
    }
    let device = result::device::get(0).map_err(no_device)?;
    let info = describe(device).map_err(no_device)?;
    if info.capability < LEAST_CAPABILITY {
        return Err(CudaError::OldDevice {
            name: info.name,
            capability: info.capability,
            least: LEAST_CAPABILITY,
        });
    }
    let name = info.name.clone();
    let failed = |what: &str| {
        let (name, what) = (name.clone(), what.to_owned());
        move |e: DriverError| CudaError::Device {
            name,
            what,
            source: failure("open", 0, e),
        }
    };
    let context = Context::retain(device).map_err(failed("making a context"))?;
    let stream = Stream::new(context).map_err(failed("making a stream"))?;
    let stream = Arc::new(stream);
    let (modules, functions) = load(&stream)?;
    let staging = Staging::new(&stream).map_err(failed("allocating host memory for copies"))?;
    let device = Driver {
        info,
        stream,
        staging: Mutex::new(staging),
        functions,
        _modules: modules,
    };
    Ok(Opened {
        device: Box::new(device),
        n_devices,
    })
}

/// The kernels, compiled for the device, and the code that they are in.
fn load(stream: &Arc<Stream>) -> Result<(Vec<Module>, Vec<Function>), CudaError> {
    let refused = |what: &str, e: DriverError| CudaError::Kernels {
        message: format!("`{what}`: {}", told(e)),
    };
    let mut modules = Vec::with_capacity(ptx::MODULES.len());
    for (name, text) in ptx::MODULES {
        modules.push(Module::load(stream, text).map_err(|e| refused(name, e))?);
    }
    let mut functions = Vec::with_capacity(Kernel::ALL.len());
    for kernel in Kernel::ALL {
        let name = kernel.entry();
        let entry = CString::new(name).unwrap_or_default();
        let at = ptx::MODULES
            .iter()
            .position(|(_, text)| ptx::has_entry(text, name));
        // A test has it that each kernel is in one of them.
        let module = &modules[at.unwrap_or(0)];
        let function = module.function(entry).map_err(|e| refused(name, e))?;
        functions.push(Function {
            kernel,
            function,
            shared: AtomicU32::new(PLAIN_SHARED),
        });
    }
    Ok((modules, functions))
}

/// Whether the driver has all that is called of it.
fn check_version() -> Result<(), CudaError> {
    let mut version = 0;
    // SAFETY: writes the number that it is given; every version of the library has it, before anything else is called.
    let done = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    done.result()
        .map_err(|e| CudaError::NoDevice { message: told(e) })?;
    let version = u32::try_from(version).unwrap_or(0);
    let version = (version / 1000, version % 1000 / 10);
    if version < LEAST_VERSION {
        return Err(CudaError::OldDriver {
            version,
            least: LEAST_VERSION,
        });
    }
    Ok(())
}

fn describe(device: sys::CUdevice) -> Result<DeviceInfo, DriverError> {
    use sys::CUdevice_attribute_enum as Of;
    let attribute = |of| {
        // SAFETY: `device` came from the driver.
        let value = unsafe { result::device::get_attribute(device, of) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(DeviceInfo {
        name: result::device::get_name(device)?,
        capability: (
            attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Of::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared: attribute(Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }?,
    })
}

/// What the driver says of an error.
fn told(error: DriverError) -> String {
    let text = error.error_string().map(|s| s.to_string_lossy());
    match text {
        Ok(text) => format!("{:?}: {text}", error.0),
        Err(_) => format!("{:?}", error.0),
    }
}

/// An error of `call`, which was about `bytes`.
fn failure(call: &'static str, bytes: usize, error: DriverError) -> DeviceError {
    use sys::CUresult as R;
    let message = told(error);
    match error.0 {
        R::CUDA_ERROR_OUT_OF_MEMORY if bytes > 0 => DeviceError::OutOfMemory { bytes },
        // After these every further call in the process gives the same error.
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | R::CUDA_ERROR_DEVICE_UNAVAILABLE
        | R::CUDA_ERROR_DEINITIALIZED
        | R::CUDA_ERROR_UNKNOWN => DeviceError::Lost { call, message },
        _ => DeviceError::Failed { call, message },
    }
}

impl Driver {
    /// Makes the context the calling thread's.
    fn enter(&self, call: &'static str) -> Result<(), DeviceError> {
        self.stream
            .context()
            .enter()
            .map_err(|e| failure(call, 0, e))
    }

    fn function(&self, kernel: Kernel) -> Option<&Function> {
        self.functions.iter().find(|f| f.kernel == kernel)
    }
}

impl Device for Driver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory(&self) -> Result<usize, DeviceError> {
        let call = "cuMemGetInfo";
        self.enter(call)?;
        let (free, _) = result::mem_get_info().map_err(|e| failure(call, 0, e))?;
        Ok(free)
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        let call = "cuMemAlloc";
        self.enter(call)?;
        let memory = Memory::alloc(self.stream.context(), bytes.max(1));
        let memory = memory.map_err(|e| failure(call, bytes.max(1), e))?;
        Ok(Buffer::new(memory.address(), bytes, Arc::new(memory)))
    }

    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let call = "cuMemcpyHtoDAsync";
        let address = to.at(offset, bytes.len())?;
        self.enter(call)?;
        // A panic in a copy of bytes cannot leave it half done: the next one starts anew.
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging
            .upload(&self.stream, address, bytes)
            .map_err(|e| failure(call, 0, e))
    }

    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let call = "cuMemcpyDtoHAsync";
        let address = from.at(offset, bytes.len())?;
        self.enter(call)?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging
            .download(&self.stream, address, bytes)
            .map_err(|e| failure(call, 0, e))
    }

    fn copy(
        &self,
        to: (&Buffer, usize),
        from: (&Buffer, usize),
        len: usize,
    ) -> Result<(), DeviceError> {
        let call = "cuMemcpyDtoDAsync";
        let (to, from) = (to.0.at(to.1, len)?, from.0.at(from.1, len)?);
        if len == 0 {
            return Ok(());
        }
        self.enter(call)?;
        // SAFETY: both ranges lie within buffers that the caller has; they are freed by a call that waits for the
        // device.
        unsafe { result::memcpy_dtod_async(to, from, len, self.stream.raw()) }
            .map_err(|e| failure(call, 0, e))
    }

    fn fill(&self, to: &Buffer, byte: u8) -> Result<(), DeviceError> {
        let call = "cuMemsetD8Async";
        if to.is_empty() {
            return Ok(());
        }
        self.enter(call)?;
        // SAFETY: the buffer's own bytes.
        unsafe { result::memset_d8_async(to.address(), byte, to.len(), self.stream.raw()) }
            .map_err(|e| failure(call, 0, e))
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let kernel = launch.kernel.entry();
        let refused = |message| DeviceError::Launch { kernel, message };
        let failed = |e: DriverError| match failure("cuLaunchKernel", 0, e) {
            DeviceError::Failed { message, .. } => refused(message),
            error => error,
        };
        let Some(function) = self.function(launch.kernel) else {
            return Err(refused("there is no such kernel".to_owned()));
        };
        self.enter("cuLaunchKernel")?;
        let shape = &launch.shape;
        if shape.shared > function.shared.load(Relaxed) {
            let most =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that lives as long as `self`.
            unsafe {
                result::function::set_function_attribute(
                    function.function,
                    most,
                    shape.shared as i32,
                )
            }
            .map_err(failed)?;
            function.shared.store(shape.shared, Relaxed);
        }
        let words = launch.args.words();
        let mut params = [words.as_ptr().cast_mut().cast()];
        let [x, y, z] = shape.grid;
        // SAFETY: the kernel takes one structure by value, of which `words` has all bytes (a test compares its size with the
        // PTX); the driver copies them before it returns. What its addresses point to is the caller's, who keeps it.
        unsafe {
            result::launch_kernel(
                function.function,
                (x, y, z),
                (shape.threads, 1, 1),
                shape.shared,
                self.stream.raw(),
                &mut params,
            )
        }
        .map_err(failed)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        let call = "cuStreamSynchronize";
        self.enter(call)?;
        self.stream.wait().map_err(|e| failure(call, 0, e))
    }

    fn capture(
        &self,
        record: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Box<dyn Graph>, DeviceError> {
        let call = "cuStreamBeginCapture";
        self.enter(call)?;
        self.stream
            .begin_capture()
            .map_err(|e| failure(call, 0, e))?;
        let recorded = record();
        // Ended whatever happened, or the stream would go on recording.
        let executable = Executable::end_capture(&self.stream);
        recorded?;
        match executable {
            Ok(executable) => Ok(Box::new(executable)),
            Err(e) => Err(failure("cuGraphInstantiate", 0, e)),
        }
    }
}

impl Graph for Executable {
    fn replay(&self) -> Result<(), DeviceError> {
        self.launch().map_err(|e| failure("cuGraphLaunch", 0, e))
    }
}
