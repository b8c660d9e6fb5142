//! What the driver hands out and takes back: each freed when it is dropped, and what it lies in after it.

use std::{
    ffi::{CString, c_void},
    fmt, ptr,
    sync::Arc,
};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

/// The primary context of a device.
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be current in several threads at once, and its calls are safe from all of them (CUDA driver API,
// "Thread safety").
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn retain(device: sys::CUdevice) -> Result<Arc<Self>, DriverError> {
        // SAFETY: `device` came from the driver; it is released once, when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        let context = Arc::new(Self { device, context });
        context.enter()?;
        Ok(context)
    }

    /// Makes it the calling thread's.
    pub(super) fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nobody is left to tell of an error, here and in the others.
        // SAFETY: retained once; whatever is in it keeps it alive and is gone.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of the device.
pub(super) struct Memory {
    address: sys::CUdeviceptr,
    context: Arc<Context>,
}

impl Memory {
    /// `bytes` of it, more than none.
    pub(super) fn alloc(context: &Arc<Context>, bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: what it holds is not read before it is written; see `Device::alloc`.
        let address = unsafe { result::malloc_sync(bytes) }?;
        Ok(Self {
            address,
            context: Arc::clone(context),
        })
    }

    pub(super) const fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once, freed once; the call waits until the device is done with it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// The one stream.
pub(super) struct Stream {
    stream: sys::CUstream,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Stream {}
// SAFETY: as for `Context`.
unsafe impl Sync for Stream {}

impl Stream {
    /// In a context that is the thread's.
    pub(super) fn new(context: Arc<Context>) -> Result<Self, DriverError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(Self { stream, context })
    }

    pub(super) const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) const fn raw(&self) -> sys::CUstream {
        self.stream
    }

    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
    }

    /// What this thread starts from now on is recorded.
    pub(super) fn begin_capture(&self) -> Result<(), DriverError> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream, mode) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created once, destroyed once.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

/// Code on the device.
pub(super) struct Module {
    module: sys::CUmodule,
    stream: Arc<Stream>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Module {}

impl Module {
    /// Compiles PTX for the device, or finds it compiled in the driver's cache.
    pub(super) fn load(stream: &Arc<Stream>, ptx: &str) -> Result<Self, DriverError> {
        let text =
            CString::new(ptx).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_INVALID_PTX))?;
        // SAFETY: PTX as text that ends with a zero byte.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }?;
        Ok(Self {
            module,
            stream: Arc::clone(stream),
        })
    }

    pub(super) fn function(&self, entry: CString) -> Result<sys::CUfunction, DriverError> {
        // SAFETY: the module is loaded as long as `self` lives.
        unsafe { result::module::get_function(self.module, entry) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.stream.context().enter().is_ok() {
            // SAFETY: loaded once, unloaded once.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// Recorded launches.
pub(super) struct Executable {
    executable: sys::CUgraphExec,
    stream: Arc<Stream>,
}

// SAFETY: as for `Context`; a graph is launched by one thread at a time, since it is not `Sync`.
unsafe impl Send for Executable {}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Executable")
    }
}

impl Executable {
    /// Ends what [`Stream::begin_capture`] began.
    pub(super) fn end_capture(stream: &Arc<Stream>) -> Result<Self, DriverError> {
        // SAFETY: the stream lives.
        let graph = unsafe { result::stream::end_capture(stream.raw()) }?;
        if graph.is_null() {
            return Err(DriverError(
                sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            ));
        }
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: `graph` came from the driver, is used once and then destroyed.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, flags);
            let _ = result::graph::destroy(graph);
            executable
        }?;
        let stream = Arc::clone(stream);
        Ok(Self { executable, stream })
    }

    pub(super) fn launch(&self) -> Result<(), DriverError> {
        self.stream.context().enter()?;
        // SAFETY: both live as long as `self`.
        unsafe { result::graph::launch(self.executable, self.stream.raw()) }
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        if self.stream.context().enter().is_ok() {
            // SAFETY: instantiated once, destroyed once.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

/// Memory of the host that the device copies from and to by itself.
pub(super) struct Pinned {
    bytes: *mut c_void,
    len: usize,
    context: Arc<Context>,
}

// SAFETY: it owns its bytes, and the driver's calls are safe from every thread.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn new(context: &Arc<Context>, len: usize) -> Result<Self, DriverError> {
        // SAFETY: the bytes are zeroed before anybody sees them.
        let bytes = unsafe { result::malloc_host(len, 0) }?;
        // SAFETY: `len` bytes were allocated.
        unsafe { ptr::write_bytes(bytes.cast::<u8>(), 0, len) };
        Ok(Self {
            bytes,
            len,
            context: Arc::clone(context),
        })
    }

    /// The bytes. Only while the device copies neither from nor to them.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated, initialised, and borrowed from `self`. That the device does not write them is `Staging`'s part:
        // it waits for the event that follows each copy.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.cast(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once, freed once.
            let _ = unsafe { result::free_host(self.bytes) };
        }
    }
}

/// A point in a stream.
pub(super) struct Event {
    event: sys::CUevent,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Event {}

impl Event {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DriverError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Self {
            event,
            context: Arc::clone(context),
        })
    }

    /// Puts it behind all that was started.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: both live.
        unsafe { result::event::record(self.event, stream.raw()) }
    }

    /// Waits until the device has come to where it was put; not at all if it never was.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: it lives as long as `self`.
        unsafe { result::event::synchronize(self.event) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created once, destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}
