//! The share of the processors that a control group leaves its processes.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Processors that this process's control group and those around it pay for, rounded down, where
/// one of them has a limit; the files are looked up below `root`.
///
/// Rounded down, since a team waits for its slowest thread: with three threads on a quota of two and
/// a half processors all three would be stopped for a part of each period.
pub(super) fn quota(root: &Path) -> Option<usize> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        // `4:cpu,cpuacct:/a/b` (version 1) or `0::/a/b` (version 2).
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let version_2 = controllers.is_empty();
        if !version_2 && !controllers.split(',').any(|c| c == "cpu") {
            return None;
        }
        let mount = mounts
            .lines()
            .find_map(|line| Mount::parse(line, version_2))?;
        let read = |dir: &Path| {
            let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
            if version_2 {
                cpu_max(&text("cpu.max")?)
            } else {
                ratio(&text("cpu.cfs_quota_us")?, &text("cpu.cfs_period_us")?)
            }
        };
        mount.dirs(root, path).filter_map(|dir| read(&dir)).min()
    });
    limits.min()
}

/// `max 100000` or `250000 100000`.
fn cpu_max(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// Whole processors, at least one; no number above zero (`max`, `-1`) is no limit.
fn ratio(quota: &str, period: &str) -> Option<usize> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok().filter(|p| *p > 0)?;
    usize::try_from((quota / period).max(1)).ok()
}

/// Where a hierarchy of control groups is mounted.
struct Mount<'a> {
    /// The group that is mounted, which is not the topmost inside a container.
    group: &'a str,
    at: &'a str,
}

impl<'a> Mount<'a> {
    /// A line of `mountinfo`, if it mounts what is looked for:
    /// `36 25 0:30 GROUP AT OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS`.
    fn parse(line: &'a str, version_2: bool) -> Option<Self> {
        let (own, of_system) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(3);
        let (group, at) = (own.next()?, own.next()?);
        let mut of_system = of_system.split(' ');
        let (kind, options) = (of_system.next()?, of_system.nth(1).unwrap_or_default());
        let ours = if version_2 {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.split(',').any(|o| o == "cpu")
        };
        ours.then_some(Self { group, at })
    }

    /// The folder of group `path` and of all around it, up to the mount.
    fn dirs(&self, root: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
        let top = root.join(self.at.trim_start_matches('/'));
        // A path that leaves the mount (`/../a`) or is not below its group is seen as the mount.
        let below = Path::new(path).strip_prefix(self.group).ok();
        let below = below.filter(|p| !p.components().any(|c| c.as_os_str() == ".."));
        let first = top.join(below.unwrap_or(Path::new("")));
        let dirs: Vec<PathBuf> = first
            .ancestors()
            .take_while(|dir| dir.starts_with(&top))
            .map(Path::to_owned)
            .collect();
        dirs.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        what: &'static str,
        files: &'static [(&'static str, &'static str)],
        want: Option<usize>,
    }

    const V2: (&str, &str) = (
        "proc/self/mountinfo",
        "30 20 0:25 / /proc rw - proc proc rw\n\
         36 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    );
    const V1: (&str, &str) = (
        "proc/self/mountinfo",
        "36 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         37 25 0:31 /docker/a /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
    );

    #[test]
    fn limits_of_the_group_and_of_those_around_it_are_found() {
        let cases = [
            Case {
                what: "no control groups",
                files: &[],
                want: None,
            },
            Case {
                what: "version 2 without a limit",
                files: &[
                    V2,
                    ("proc/self/cgroup", "0::/a\n"),
                    ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
                ],
                want: None,
            },
            Case {
                what: "version 2, the limit of a group around it is lower",
                files: &[
                    V2,
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/cpu.max", "250000 100000\n"),
                    ("sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"),
                ],
                want: Some(2),
            },
            Case {
                what: "version 2 in a container: the root of the namespace has a limit",
                files: &[
                    V2,
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
                ],
                want: Some(1),
            },
            Case {
                what: "version 2, a path outside of the namespace",
                files: &[
                    V2,
                    ("proc/self/cgroup", "0::/../x\n"),
                    ("sys/fs/cgroup/cpu.max", "300000 100000\n"),
                    ("sys/fs/x/cpu.max", "100000 100000\n"),
                ],
                want: Some(3),
            },
            Case {
                what: "version 1, mounted from the container's group on",
                files: &[
                    V1,
                    (
                        "proc/self/cgroup",
                        "9:name=systemd:/\n4:cpu,cpuacct:/docker/a/b\n3:memory:/\n0::/\n",
                    ),
                    ("sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_quota_us", "400000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_period_us", "100000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
                want: Some(4),
            },
            Case {
                what: "version 1 without a limit",
                files: &[
                    V1,
                    ("proc/self/cgroup", "4:cpu,cpuacct:/docker/a\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
                want: None,
            },
            Case {
                what: "broken numbers",
                files: &[
                    V2,
                    ("proc/self/cgroup", "0::/\nnonsense\n"),
                    ("sys/fs/cgroup/cpu.max", "5 0\n"),
                ],
                want: None,
            },
        ];
        for Case { what, files, want } in cases {
            let dir = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            assert_eq!(quota(dir.path()), want, "{what}");
        }
    }
}
