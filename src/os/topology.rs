//! How many threads are of use.

use std::{collections::BTreeSet, fs, path::Path, thread};

use super::{allowed_cpus, cgroup, cpus::parse_list};

/// Threads that a session uses unless told otherwise: the physical performance cores among the processors that
/// this process may use, and no more than its quota allows.
pub fn default_threads() -> usize {
    let logical = n_cpus();
    match physical_cores() {
        Some(cores) => cores.clamp(1, logical),
        None => logical,
    }
}

/// Processors that this process may use at once: of its affinity mask, and no more than the quota of
/// its control group pays for.
pub fn n_cpus() -> usize {
    let n = thread::available_parallelism().map_or(1, usize::from);
    cgroup::quota(Path::new("/")).map_or(n, |quota| quota.clamp(1, n))
}

/// Physical performance cores among the processors of the affinity mask, where Linux tells.
fn physical_cores() -> Option<usize> {
    count_cores(Path::new("/sys/devices"), &allowed_cpus()?)
}

/// Physical performance cores among `allowed`, as the tree of devices `root` describes them.
///
/// Where cores differ, only the fast ones count: a thread on a slow core would make all others wait
/// for it. Intel's hybrids list their performance cores; Arm's give each core a capacity, of which
/// at least half of the largest is asked for.
fn count_cores(root: &Path, allowed: &[usize]) -> Option<usize> {
    let read = |path: String| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some(text.trim().to_owned())
    };
    let fast = read("cpu_core/cpus".to_owned()).and_then(|list| parse_list(&list));
    let capacity = |cpu: usize| {
        let text = read(format!("system/cpu/cpu{cpu}/cpu_capacity"))?;
        text.parse::<u64>().ok()
    };
    let largest = allowed.iter().filter_map(|&cpu| capacity(cpu)).max();
    let is_fast = |cpu: usize| match (&fast, largest) {
        (Some(fast), _) => fast.contains(&cpu),
        (None, Some(largest)) => capacity(cpu).is_none_or(|c| 2 * c >= largest),
        (None, None) => true,
    };
    let cores_of = |cpus: &[usize]| {
        let siblings = |cpu| read(format!("system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let cores: Option<BTreeSet<String>> = cpus.iter().copied().map(siblings).collect();
        cores.map(|cores| cores.len()).filter(|&n| n > 0)
    };
    let fast: Vec<usize> = allowed
        .iter()
        .copied()
        .filter(|&cpu| is_fast(cpu))
        .collect();
    // A process that was bound to slow cores uses these.
    cores_of(&fast).or_else(|| cores_of(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_cores_and_second_threads_of_a_core_are_left_out() {
        // Cores of two threads each, but for the last two processors.
        let siblings = ["0-1", "0-1", "2-3", "2-3", "4", "5"];
        let tree = |extra: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            let write = |path: String, text: &str| {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            };
            for (cpu, text) in siblings.iter().enumerate() {
                write(
                    format!("system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                    text,
                );
            }
            extra
                .iter()
                .for_each(|(path, text)| write((*path).to_owned(), text));
            dir
        };
        let count =
            |extra: &[(&str, &str)], allowed: &[usize]| count_cores(tree(extra).path(), allowed);
        let all = [0, 1, 2, 3, 4, 5];
        assert_eq!(count(&[], &all), Some(4));
        assert_eq!(count(&[], &[1, 2, 3]), Some(2));
        let intel = [("cpu_core/cpus", "0-3")];
        assert_eq!(count(&intel, &all), Some(2));
        // Bound to slow cores only.
        assert_eq!(count(&intel, &[4, 5]), Some(2));
        let arm = [
            ("system/cpu/cpu0/cpu_capacity", "1024"),
            ("system/cpu/cpu2/cpu_capacity", "871"),
            ("system/cpu/cpu4/cpu_capacity", "320"),
        ];
        assert_eq!(count(&arm, &[0, 2, 4]), Some(2));
        assert_eq!(count(&[], &[9]), None);
    }

    #[test]
    fn the_default_uses_at_least_one_thread_and_no_more_than_allowed() {
        let n = default_threads();
        assert!(n >= 1 && n <= thread::available_parallelism().map_or(1, usize::from));
        assert!(!super::super::cpu_name().is_empty());
    }
}
