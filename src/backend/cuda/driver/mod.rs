//! The CUDA driver as a [`Device`].
//!
//! Its library is opened when a layer is to go to a GPU, never before; nothing is linked. Each call that could panic
//! where the library lacks something is behind a check of its version.

#![allow(unsafe_code)] // calls of the driver

mod kernels;
mod owned;
mod staging;

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

use super::{
    CudaError, Opened,
    args::{Kernel, MAX_SHARED},
    device::{Buffer, Device, DeviceError, DeviceInfo, Graph, Launch},
};
use kernels::Kernels;
use owned::{Context, Executable, Memory, Stream};
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
    kernels: Mutex<Kernels>,
}

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
    check_sizes(&info)?;
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
    let mut kernels = Kernels::default();
    // Of all that there are the smallest: whether the driver takes them.
    kernels
        .load(&stream, Kernel::ReadProbe)
        .map_err(|e| CudaError::Kernels {
            message: format!("`{}`: {}", e.what, told(e.error)),
        })?;
    let staging = Staging::new(&stream).map_err(failed("allocating host memory for copies"))?;
    let device = Driver {
        info,
        stream,
        staging: Mutex::new(staging),
        kernels: Mutex::new(kernels),
    };
    Ok(Opened {
        device: Box::new(device),
        n_devices,
    })
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

/// Launches are made of these numbers: none of them may be too small for a kernel, or give a grid without blocks.
fn check_sizes(info: &DeviceInfo) -> Result<(), CudaError> {
    for (what, got, expected) in [
        ("multiprocessors", info.multiprocessors, (1, 0xffff)),
        (
            "bytes of shared memory for a block",
            info.shared,
            (MAX_SHARED, 1 << 30),
        ),
    ] {
        if got < expected.0 || got > expected.1 {
            let name = info.name.clone();
            return Err(CudaError::OddDevice {
                name,
                what,
                got,
                expected,
            });
        }
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

    fn prepare(&self, kernels: &[Kernel]) -> Result<(), DeviceError> {
        self.enter("cuModuleLoadData")?;
        let mut loaded = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        for &kernel in kernels {
            loaded
                .load(&self.stream, kernel)
                .map_err(|e| match failure(e.call, 0, e.error) {
                    DeviceError::Failed { call, message } => DeviceError::Failed {
                        call,
                        message: format!("`{}`: {message}", e.what),
                    },
                    error => error,
                })?;
        }
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let kernel = launch.kernel.entry();
        let refused = |message| DeviceError::Launch { kernel, message };
        let failed = |e: DriverError| match failure("cuLaunchKernel", 0, e) {
            DeviceError::Failed { message, .. } => refused(message),
            error => error,
        };
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(function) = kernels.get(launch.kernel) else {
            return Err(refused("it was not prepared".to_owned()));
        };
        self.enter("cuLaunchKernel")?;
        let shape = &launch.shape;
        if shape.shared > function.shared {
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
            function.shared = shape.shared;
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
