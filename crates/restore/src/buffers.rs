//! How much memory the private server that replays gets for its buffers: with few, replay writes the same pages out again and again.

use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// PostgreSQL's own default (manual chapter 20.4.1).
const LEAST: u64 = 128 * MIB;
/// More than this no longer makes replay quicker, and is as much to write out at its end.
const MOST: u64 = 4096 * MIB;

/// `shared_buffers` for a replay on this host: an eighth of what it can give, or of what this process's control groups allow where that
/// is less. The rest is left to the files' page cache, and to whatever else runs here.
pub(crate) fn for_replay() -> String {
    let free = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let allowed = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| allowed(&text, Path::new("/sys/fs/cgroup")));
    let memory = free.into_iter().chain(allowed).min().unwrap_or_default();
    format!("{}MB", (memory / 8).clamp(LEAST, MOST) / MIB)
}

/// Bytes of `MemAvailable` (proc_meminfo(5)).
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The least `memory.max` of the control group that `/proc/self/cgroup` names and of those above it (cgroup v2, cgroups(7)); a container
/// sees its own as the root.
fn allowed(cgroup: &str, root: &Path) -> Option<u64> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = root.join(own);
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    groups.filter_map(|group| fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_what_the_host_has_and_the_groups_allow_counts() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\nBuffers: 1 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a/b");
        fs::create_dir_all(&group).unwrap();
        assert_eq!(allowed("0::/a/b\n", root.path()), None);
        fs::write(group.join("memory.max"), "max\n").unwrap();
        assert_eq!(allowed("0::/a/b\n", root.path()), None);
        fs::write(root.path().join("a/memory.max"), "1000\n").unwrap();
        assert_eq!(allowed("1:cpu:/x\n0::/a/b\n", root.path()), Some(1000));
        fs::write(group.join("memory.max"), "900\n").unwrap();
        assert_eq!(allowed("0::/a/b\n", root.path()), Some(900));
        assert_eq!(allowed("1:memory:/a/b\n", root.path()), None);
    }

    #[test]
    fn what_a_server_can_start_with_comes_out() {
        let buffers: u64 = for_replay().strip_suffix("MB").unwrap().parse().unwrap();
        assert!((128..=4096).contains(&buffers));
    }
}
