//! Processors by their numbers.

use std::fs;

use super::{OsError, imp};

/// No system has more; a list is not to make us allocate.
const MAX_CPUS: usize = 1 << 16;

/// Processor numbers written as `0-3,8`.
pub(super) fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last - first > MAX_CPUS || cpus.len() > MAX_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The list of processors of a flag, such as `0-3,6`, in the order written.
///
/// # Errors
///
/// It is none.
pub fn parse_cpus(list: &str) -> Result<Vec<usize>, OsError> {
    parse_list(list).ok_or_else(|| OsError::CpuList {
        list: list.to_owned(),
    })
}

/// Processor numbers in increasing order, written as they are read.
fn list(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let [first, ..] = rest {
        let n = rest.iter().zip(*first..).take_while(|(a, b)| *a == b);
        let n = n.count();
        if !text.is_empty() {
            text.push(',');
        }
        text += &first.to_string();
        if n > 1 {
            text += &format!("-{}", rest[n - 1]);
        }
        rest = &rest[n..];
    }
    text
}

/// The processors that the calling thread may run on, in increasing order, where the system tells.
pub fn allowed_cpus() -> Option<Vec<usize>> {
    // Of the thread, not of the process: threads differ once some are bound.
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let allowed = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    parse_list(allowed)
}

/// Checks that this process may run on `cpus`.
///
/// # Errors
///
/// [`OsError`] names the first that does not exist or is not allowed, and those that are; or the
/// system cannot bind threads.
pub fn check_cpus(cpus: &[usize]) -> Result<(), OsError> {
    if !imp::CAN_PIN {
        return Err(OsError::NotSupported {
            what: "binding threads to processors",
        });
    }
    // What cannot be looked up is found out by doing it.
    let present = fs::read_to_string("/sys/devices/system/cpu/online");
    let present = present.ok().and_then(|text| parse_list(&text));
    check(cpus, present.as_deref(), allowed_cpus().as_deref())
}

fn check(
    cpus: &[usize],
    present: Option<&[usize]>,
    allowed: Option<&[usize]>,
) -> Result<(), OsError> {
    for &cpu in cpus {
        if let Some(present) = present.filter(|p| !p.contains(&cpu)) {
            let present = list(present);
            return Err(OsError::NoSuchCpu { cpu, present });
        }
        if let Some(allowed) = allowed.filter(|a| !a.contains(&cpu)) {
            let allowed = list(allowed);
            return Err(OsError::CpuNotAllowed { cpu, allowed });
        }
    }
    Ok(())
}

/// Binds the calling thread to a processor.
///
/// # Errors
///
/// What the system says.
pub fn pin_thread(cpu: usize) -> Result<(), OsError> {
    imp::pin_thread(cpu)
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
    fn lists_are_written_as_they_are_read() {
        for text in ["0", "0-3", "0-1,4,6-7", "2,4"] {
            assert_eq!(list(&parse_list(text).unwrap()), text);
        }
        assert_eq!(parse_cpus("6,0-1").unwrap(), [6, 0, 1]);
        assert_eq!(
            parse_cpus("all").unwrap_err().to_string(),
            "`all` is no list of processors: expected numbers and ranges, such as 0-3,6"
        );
    }

    #[test]
    fn errors_name_the_processor_and_what_there_is() {
        let (present, allowed) = ([0, 1, 2, 3], [0, 2, 3]);
        let check = |cpus: &[usize]| {
            let done = check(cpus, Some(&present), Some(&allowed));
            done.map_err(|e| e.to_string())
        };
        assert_eq!(check(&[3, 0]), Ok(()));
        assert_eq!(
            check(&[0, 4]),
            Err("processor 4 does not exist: there are 0-3".into())
        );
        assert_eq!(
            check(&[1]),
            Err(
                "processor 1 may not be used by this process: its affinity mask allows 0,2-3"
                    .into()
            )
        );
    }
}
