//! What only some systems tell: threads, memory, the processor's name.
//!
//! Everything here is read from files that Linux has; elsewhere the answers are the portable ones,
//! or none.

use std::{collections::BTreeSet, fs, thread};

/// Threads that a session uses unless told otherwise: the physical cores among the processors that
/// this process may use, and no more than its quota allows.
pub fn default_threads() -> usize {
    let logical = n_cpus();
    match physical_cores() {
        Some(cores) => cores.clamp(1, logical),
        None => logical,
    }
}

/// Processors that this process may use at once.
pub fn n_cpus() -> usize {
    // Covers the affinity mask and, on Linux, the quota of the control group.
    thread::available_parallelism().map_or(1, usize::from)
}

/// Physical cores among the processors of the affinity mask, where Linux tells.
fn physical_cores() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    let cores: BTreeSet<String> = parse_list(allowed)?
        .into_iter()
        .map(|cpu| {
            let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            fs::read_to_string(file).map(|s| s.trim().to_owned())
        })
        .collect::<Result<_, _>>()
        .ok()?;
    (!cores.is_empty()).then_some(cores.len())
}

/// Processor numbers written as `0-3,8`.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Resident memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it, bytes.
    pub resident: u64,
    /// Of which pages of mapped files, bytes: the weights, and the program itself.
    pub file: u64,
    /// The largest it ever was, bytes.
    pub peak: u64,
}

/// Resident memory, where the system tells.
pub fn memory() -> Option<Memory> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        file: field("RssFile:")?,
        peak: field("VmHWM:")?,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(parse_list("\t0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("5"), Some(vec![5]));
        for bad in ["", "a", "3-1", "1-", "0-99999999999"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_default_uses_at_least_one_thread_and_no_more_than_allowed() {
        let n = default_threads();
        assert!(n >= 1 && n <= thread::available_parallelism().map_or(1, usize::from));
        assert!(!cpu_name().is_empty());
    }
}
