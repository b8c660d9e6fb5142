//! What only some systems tell or do: processors, memory, the processor's name.
//!
//! What is read is read from files that Linux has; elsewhere the answers are the portable ones, or
//! none. What is done is done by calls that Linux has (`linux`); elsewhere it is an error that says
//! so, or nothing where it is only a hint (`other`).

use std::{error::Error, fmt, fs, io};

mod cgroup;
mod cpus;
mod input;
mod memory;
mod topology;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
use other as imp;

pub use cpus::{allowed_cpus, check_cpus, parse_cpus, pin_thread};
pub use input::input_waits;
pub use memory::{HugePages, Memory, ReadAhead, copy_to_huge_pages, lock, memory, read_ahead};
pub use topology::{default_threads, n_cpus};

/// Why the system did not do what was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum OsError {
    /// This system has no such call.
    NotSupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A list of processors cannot be read.
    CpuList {
        /// The list.
        list: String,
    },
    /// There is no such processor.
    NoSuchCpu {
        /// Its number.
        cpu: usize,
        /// Those that there are, as a list.
        present: String,
    },
    /// This process may not run on the processor.
    CpuNotAllowed {
        /// Its number.
        cpu: usize,
        /// Those that it may run on, as a list.
        allowed: String,
    },
    /// A thread could not be bound to a processor.
    Pin {
        /// The processor's number.
        cpu: usize,
        /// What the system said.
        cause: io::Error,
    },
    /// Memory could not be locked.
    Lock {
        /// Bytes to lock.
        bytes: u64,
        /// The process's limit, bytes; `None`: there is none.
        limit: Option<u64>,
        /// What the system said.
        cause: io::Error,
    },
    /// Memory for a copy in huge pages could not be had.
    HugePages {
        /// Its bytes.
        bytes: u64,
        /// What the system said.
        cause: io::Error,
    },
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        match self {
            Self::NotSupported { what } => write!(f, "{what} is not supported on this system"),
            Self::CpuList { list } => write!(
                f,
                "`{list}` is no list of processors: expected numbers and ranges, such as 0-3,6"
            ),
            Self::NoSuchCpu { cpu, present } => {
                write!(f, "processor {cpu} does not exist: there are {present}")
            }
            Self::CpuNotAllowed { cpu, allowed } => write!(
                f,
                "processor {cpu} may not be used by this process: its affinity mask allows {allowed}"
            ),
            Self::Pin { cpu, .. } => {
                write!(f, "a thread could not be bound to processor {cpu}")
            }
            Self::Lock {
                bytes,
                limit: Some(limit),
                ..
            } if limit < bytes => write!(
                f,
                "{} MiB cannot be locked in memory: the limit RLIMIT_MEMLOCK is {} MiB; raise it to \
                 at least {} KiB (`ulimit -l`, limits.conf, LimitMEMLOCK= of a service, --ulimit \
                 memlock of a container), or go without --mlock",
                mib(*bytes),
                limit >> 20,
                bytes.div_ceil(1 << 10),
            ),
            Self::Lock { bytes, .. } => write!(
                f,
                "{} MiB could not be locked in memory; RLIMIT_MEMLOCK allows as many, so there may be \
                 too little memory: go without --mlock",
                mib(*bytes)
            ),
            Self::HugePages { bytes, .. } => write!(
                f,
                "{} MiB of memory for a copy in huge pages could not be had: go without --hugepages",
                mib(*bytes)
            ),
        }
    }
}

impl Error for OsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pin { cause, .. } | Self::Lock { cause, .. } | Self::HugePages { cause, .. } => {
                Some(cause)
            }
            _ => None,
        }
    }
}

/// The processor's name, or its architecture where the system does not tell.
pub fn cpu_name() -> String {
    let name = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find(|l| l.starts_with("model name") || l.starts_with("Model"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
