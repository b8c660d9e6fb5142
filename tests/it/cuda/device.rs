//! Devices in the test's own memory, without a GPU: one computes by definition, another runs the kernels' source over an
//! emulation. They can be told to fail at their nth call.

use std::sync::{Arc, Mutex};

use chaski::backend::cuda::{
    Opened,
    args::Kernel,
    device::{Buffer, Device, DeviceError, DeviceInfo, Graph, Launch},
};

use super::{
    emulated::Library,
    kernels,
    memory::{self, Memory, lock},
};

/// How a device fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The call fails; the next ones do not.
    Once,
    /// The device is gone from this call on.
    Lost,
}

/// What a test sees of a device.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Calls so far, of any kind but `info`.
    pub(super) calls: usize,
    /// Kernels that may be launched.
    pub(super) prepared: Vec<Kernel>,
    /// Launches that ran, replayed ones included.
    pub(super) launches: Vec<Kernel>,
    /// Recordings that were made, and those that were started.
    pub(super) captures: usize,
    pub(super) replays: usize,
    /// The call that fails, counted from 1.
    pub(super) fault: Option<(usize, Fault)>,
}

pub(super) type Shared = Arc<Mutex<Log>>;

/// What runs a launch.
#[derive(Clone, Copy, Debug)]
enum Runs {
    /// `kernels.rs`.
    Definition,
    /// The kernels' source, in an order of warps and lanes that changes from launch to launch.
    Source(&'static Library),
}

#[derive(Debug)]
struct TestDevice {
    info: DeviceInfo,
    runs: Runs,
    memory: Arc<Mutex<Memory>>,
    log: Shared,
    recording: Arc<Mutex<Option<Vec<Launch>>>>,
}

/// A device with so many free bytes, and its log.
pub(super) fn by_definition(free: usize) -> (Opened, Shared) {
    let memory = Memory::new(free);
    opened("a device by definition", Runs::Definition, memory, free)
}

/// The same over the kernels' source; none where there is no C++ compiler.
pub(super) fn emulated(free: usize) -> Option<(Opened, Shared)> {
    let library = Library::get()?;
    let memory = Memory::emulated(free, library);
    let runs = Runs::Source(library);
    Some(opened("an emulated device", runs, memory, free))
}

fn opened(name: &str, runs: Runs, memory: Memory, free: usize) -> (Opened, Shared) {
    let log = Shared::default();
    let device = TestDevice {
        info: DeviceInfo {
            name: name.to_owned(),
            capability: (8, 0),
            multiprocessors: 3,
            shared: 99 << 10,
            memory: free,
        },
        runs,
        memory: Arc::new(Mutex::new(memory)),
        log: Arc::clone(&log),
        recording: Arc::default(),
    };
    let opened = Opened {
        device: Box::new(device),
        n_devices: 1,
    };
    (opened, log)
}

fn count(log: &Shared, call: &'static str) -> Result<(), DeviceError> {
    let mut log = log.lock().unwrap();
    log.calls += 1;
    match log.fault {
        Some((at, Fault::Lost)) if log.calls >= at => Err(DeviceError::Lost {
            call,
            message: "it was unplugged".to_owned(),
        }),
        Some((at, Fault::Once)) if log.calls == at => Err(match call {
            "alloc" => DeviceError::OutOfMemory { bytes: 1 },
            _ => DeviceError::Failed {
                call,
                message: "it was asked to fail".to_owned(),
            },
        }),
        _ => Ok(()),
    }
}

fn run(
    runs: Runs,
    memory: &Mutex<Memory>,
    log: &Shared,
    launch: &Launch,
) -> Result<(), DeviceError> {
    let seed = {
        let mut log = log.lock().unwrap();
        let kernel = launch.kernel;
        assert!(log.prepared.contains(&kernel), "{kernel:?} is not prepared");
        log.launches.push(kernel);
        log.launches.len() as u64
    };
    let mut memory = lock(memory);
    let ran = match runs {
        Runs::Definition => kernels::run(&mut memory, launch).map_err(|e| e.to_string()),
        Runs::Source(library) => library.launch(launch, seed),
    };
    ran.map_err(|message| DeviceError::Launch {
        kernel: launch.kernel.entry(),
        message,
    })
}

impl TestDevice {
    fn call(&self, call: &'static str) -> Result<(), DeviceError> {
        // A stream that is recorded takes launches only.
        let recording = self.recording.lock().unwrap().is_some();
        assert!(!recording || call == "launch", "{call} while recording");
        count(&self.log, call)
    }
}

impl Device for TestDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory(&self) -> Result<usize, DeviceError> {
        self.call("free_memory")?;
        Ok(lock(&self.memory).free)
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        self.call("alloc")?;
        memory::alloc(&self.memory, bytes).ok_or(DeviceError::OutOfMemory { bytes })
    }

    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.call("upload")?;
        let address = to.at(offset, bytes.len())?;
        let mut memory = lock(&self.memory);
        memory
            .bytes_mut(address, bytes.len())
            .unwrap()
            .copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.call("download")?;
        let address = from.at(offset, bytes.len())?;
        bytes.copy_from_slice(lock(&self.memory).bytes(address, bytes.len()).unwrap());
        Ok(())
    }

    fn copy(
        &self,
        to: (&Buffer, usize),
        from: (&Buffer, usize),
        len: usize,
    ) -> Result<(), DeviceError> {
        self.call("copy")?;
        let (to, from) = (to.0.at(to.1, len)?, from.0.at(from.1, len)?);
        let mut memory = lock(&self.memory);
        let bytes = memory.bytes(from, len).unwrap().to_vec();
        memory.bytes_mut(to, len).unwrap().copy_from_slice(&bytes);
        Ok(())
    }

    fn fill(&self, to: &Buffer, byte: u8) -> Result<(), DeviceError> {
        self.call("fill")?;
        let mut memory = lock(&self.memory);
        memory.bytes_mut(to.address(), to.len()).unwrap().fill(byte);
        Ok(())
    }

    fn prepare(&self, kernels: &[Kernel]) -> Result<(), DeviceError> {
        self.call("prepare")?;
        self.log.lock().unwrap().prepared.extend(kernels);
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.call("launch")?;
        if let Some(recorded) = &mut *self.recording.lock().unwrap() {
            recorded.push(*launch);
            return Ok(());
        }
        run(self.runs, &self.memory, &self.log, launch)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.call("synchronize")
    }

    fn capture(
        &self,
        record: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Box<dyn Graph>, DeviceError> {
        self.call("capture")?;
        *self.recording.lock().unwrap() = Some(Vec::new());
        let recorded = record();
        let launches = self.recording.lock().unwrap().take().unwrap();
        recorded?;
        self.log.lock().unwrap().captures += 1;
        Ok(Box::new(Recorded {
            launches,
            runs: self.runs,
            memory: Arc::clone(&self.memory),
            log: Arc::clone(&self.log),
        }))
    }
}

#[derive(Debug)]
struct Recorded {
    launches: Vec<Launch>,
    runs: Runs,
    memory: Arc<Mutex<Memory>>,
    log: Shared,
}

impl Graph for Recorded {
    fn replay(&self) -> Result<(), DeviceError> {
        count(&self.log, "replay")?;
        self.log.lock().unwrap().replays += 1;
        let mut launches = self.launches.iter();
        launches.try_for_each(|launch| run(self.runs, &self.memory, &self.log, launch))
    }
}
