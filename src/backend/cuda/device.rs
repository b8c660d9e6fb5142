//! What a device can do for the backend: memory, copies, launches. The driver implements it, and in tests a device that
//! computes by definition.

use std::{error::Error, fmt, sync::Arc};

use super::args::{Args, Kernel, Packed, Shape};

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Largest dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Bytes of memory.
    pub memory: usize,
}

/// Why the device did not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is not so much memory free.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Bytes that a buffer does not have.
    Range {
        /// First byte.
        offset: usize,
        /// Bytes.
        len: usize,
        /// Bytes of the buffer.
        buffer: usize,
    },
    /// A launch was refused, or failed.
    Launch {
        /// The kernel's entry.
        kernel: &'static str,
        /// What the driver says.
        message: String,
    },
    /// The device is gone, or does not answer any more: nothing that it holds can be had.
    Lost {
        /// What was asked.
        call: &'static str,
        /// What the driver says.
        message: String,
    },
    /// Anything else.
    Failed {
        /// What was asked.
        call: &'static str,
        /// What the driver says.
        message: String,
    },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { bytes } => {
                write!(f, "the device has no {bytes} bytes of memory left")
            }
            Self::Range {
                offset,
                len,
                buffer,
            } => write!(
                f,
                "bytes {offset} and {len} on of a device buffer of {buffer} bytes"
            ),
            Self::Launch { kernel, message } => {
                write!(f, "the device did not run `{kernel}`: {message}")
            }
            Self::Lost { call, message } => write!(f, "the device is lost ({call}): {message}"),
            Self::Failed { call, message } => write!(f, "the device failed ({call}): {message}"),
        }
    }
}

impl Error for DeviceError {}

/// Memory of a device, freed when the last clone is dropped.
#[derive(Clone)]
pub struct Buffer {
    address: u64,
    len: usize,
    /// Frees the memory when it is dropped.
    _owner: Arc<dyn Send + Sync>,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:#x}, {} bytes)", self.address, self.len)
    }
}

impl Buffer {
    /// `len` bytes at `address`, which `owner` frees when it is dropped.
    pub fn new(address: u64, len: usize, owner: Arc<dyn Send + Sync>) -> Self {
        Self {
            address,
            len,
            _owner: owner,
        }
    }

    /// Where it starts on the device, a multiple of 256.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of byte `offset`, behind which `len` bytes are the buffer's.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Range`].
    pub const fn at(&self, offset: usize, len: usize) -> Result<u64, DeviceError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.address + offset as u64),
            _ => Err(DeviceError::Range {
                offset,
                len,
                buffer: self.len,
            }),
        }
    }
}

/// A launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// On how many threads.
    pub shape: Shape,
    /// The kernel's only parameter.
    pub args: Packed,
}

impl Launch {
    /// A launch of `kernel`.
    pub fn new(kernel: Kernel, shape: Shape, args: &impl Args) -> Self {
        Self {
            kernel,
            shape,
            args: args.pack(),
        }
    }
}

/// Launches and copies that were recorded and can be repeated at once.
pub trait Graph: fmt::Debug + Send {
    /// Starts all of them, in order, after what was started before.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Launch`], [`DeviceError::Lost`].
    fn replay(&self) -> Result<(), DeviceError>;
}

/// A device and its one stream: what is started happens in order.
pub trait Device: fmt::Debug + Send {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// Free bytes of its memory.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Lost`].
    fn free_memory(&self) -> Result<usize, DeviceError>;

    /// New memory; what it holds is not defined.
    ///
    /// # Errors
    ///
    /// [`DeviceError::OutOfMemory`].
    fn alloc(&self, bytes: usize) -> Result<Buffer, DeviceError>;

    /// Copies `bytes` to byte `offset` of `to`. They may be changed when it returns.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Range`], [`DeviceError::Lost`].
    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from byte `offset` of `from`; waits for all that was started.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Range`], [`DeviceError::Lost`] and whatever failed before.
    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies `len` bytes within the device; the two ranges do not overlap.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Range`], [`DeviceError::Lost`].
    fn copy(
        &self,
        to: (&Buffer, usize),
        from: (&Buffer, usize),
        len: usize,
    ) -> Result<(), DeviceError>;

    /// Sets all bytes of `to` to `byte`.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Lost`].
    fn fill(&self, to: &Buffer, byte: u8) -> Result<(), DeviceError>;

    /// Makes kernels ready, before any of them is launched: compiles them, where that is not done.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Failed`], [`DeviceError::Lost`].
    fn prepare(&self, kernels: &[Kernel]) -> Result<(), DeviceError>;

    /// Starts a kernel that was prepared. What its arguments point to must live until it has run.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Launch`].
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Waits for all that was started.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Launch`], [`DeviceError::Lost`].
    fn synchronize(&self) -> Result<(), DeviceError>;

    /// Records the launches that `record` starts, without running them.
    ///
    /// # Errors
    ///
    /// What `record` gives, and [`DeviceError::Failed`].
    fn capture(
        &self,
        record: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Box<dyn Graph>, DeviceError>;
}
