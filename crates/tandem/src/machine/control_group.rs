//! Limits of control groups, version 1 and 2, from the group of this process up to the root: each of them binds.
//!
//! Sources: Linux's `Documentation/admin-guide/cgroup-v2.rst` (`memory.max`, `memory.current`, `memory.stat`) and
//! `cgroup-v1/memory.rst` (`memory.limit_in_bytes`, `memory.usage_in_bytes`); cgroups(7) for `/proc/self/cgroup`. sysinfo reads the
//! mount's root alone, which is the process's group only within a namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};

use super::ControlGroup;

/// One version's names.
struct Version {
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Contents of files, which the kernel drops before it kills.
    reclaimable: &'static [&'static str],
}

const V2: Version = Version {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    reclaimable: &["inactive_file", "active_file", "slab_reclaimable"],
};

const V1: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file", "total_active_file"],
};

/// What version 1 says for "no limit": the largest number of whole pages, which differs with their size.
const NO_LIMIT: u64 = 1 << 60;

/// The group with the least left, of those that this process is in. `root` is `/`, but for tests.
pub(super) fn tightest(root: &Path) -> Option<ControlGroup> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let found = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next(), fields.next().unwrap_or_default());
        let version = match controllers? {
            "" => Some(&V2),
            controllers => controllers.split(',').any(|controller| controller == "memory").then_some(&V1),
        };
        version.map(|version| limits(&root.join(version.mount), path, version))
    });
    found.flatten().min_by_key(ControlGroup::left)
}

/// The limits of `path` and the groups above it. In a namespace the path may name groups that are not seen; those that are, count.
fn limits<'v>(mount: &Path, path: &str, version: &'v Version) -> impl Iterator<Item = ControlGroup> + use<'v> {
    let path = Path::new(path.trim_start_matches('/'));
    let inside = !path.components().any(|part| part == std::path::Component::ParentDir);
    let path = if inside { path } else { Path::new("") };
    let dirs: Vec<PathBuf> = path.ancestors().map(|group| mount.join(group)).collect();
    dirs.into_iter().filter_map(|dir| limit(&dir, version))
}

fn limit(dir: &Path, version: &Version) -> Option<ControlGroup> {
    let file = dir.join(version.limit);
    let limit = number(&file).filter(|&limit| limit < NO_LIMIT)?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let field = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0_u64);
    let reclaimable: u64 = version.reclaimable.iter().map(|name| field(&format!("{name} "))).sum();
    let used = number(&dir.join(version.used)).unwrap_or(0).saturating_sub(reclaimable);
    Some(ControlGroup { file, limit, used })
}

/// The number in a file; `max` is none.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expected: Option<(&str, u64, u64)>) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = tightest(root.path());
        let found = found.as_ref().map(|group| {
            let file = group.file.strip_prefix(root.path()).unwrap();
            (file.to_str().unwrap(), group.limit, group.used)
        });
        assert_eq!(found, expected, "{files:?}");
    }

    #[test]
    fn version_2_binds_from_the_group_to_the_root() {
        let group = ("proc/self/cgroup", "0::/user/app.scope\n");
        let outer = ("sys/fs/cgroup/user/memory.max", "2000\n");
        let used = ("sys/fs/cgroup/user/memory.current", "900\n");
        let stat = ("sys/fs/cgroup/user/memory.stat", "anon 500\ninactive_file 300\nactive_file 100\nslab_reclaimable 50\n");
        check(&[group], None);
        check(&[group, outer], Some(("sys/fs/cgroup/user/memory.max", 2000, 0)));
        check(&[group, outer, used, stat], Some(("sys/fs/cgroup/user/memory.max", 2000, 450)));
        let inner = ("sys/fs/cgroup/user/app.scope/memory.max", "max\n");
        check(&[group, outer, inner], Some(("sys/fs/cgroup/user/memory.max", 2000, 0)));
        let inner = ("sys/fs/cgroup/user/app.scope/memory.max", "1500\n");
        check(&[group, outer, inner], Some(("sys/fs/cgroup/user/app.scope/memory.max", 1500, 0)));
    }

    #[test]
    fn in_a_namespace_the_mount_is_the_group() {
        let limit = ("sys/fs/cgroup/memory.max", "700");
        check(&[("proc/self/cgroup", "0::/\n"), limit], Some(("sys/fs/cgroup/memory.max", 700, 0)));
        check(&[("proc/self/cgroup", "0::/../../other\n"), limit], Some(("sys/fs/cgroup/memory.max", 700, 0)));
        check(&[("proc/self/cgroup", "0::/not/seen\n"), limit], Some(("sys/fs/cgroup/memory.max", 700, 0)));
    }

    #[test]
    fn version_1_says_no_limit_with_a_large_number() {
        let group = ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/ab\n0::/\n");
        let file = "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes";
        check(&[group, (file, "9223372036854771712")], None);
        let used = ("sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes", "400");
        let stat =
            ("sys/fs/cgroup/memory/docker/ab/memory.stat", "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n");
        check(&[group, (file, "1000"), used, stat], Some((file, 1000, 250)));
    }

    #[test]
    fn what_is_no_number_is_no_limit() {
        check(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "\n")], None);
        check(&[("proc/self/cgroup", "nonsense"), ("sys/fs/cgroup/memory.max", "5")], None);
        check(&[], None);
    }
}
