//! Reads what the kernel says of a tree of processes: CPU used, memory held.

use std::fs;

/// Ticks a second of the times in /proc/PID/stat; Linux reports user space 100 on every architecture PostgreSQL runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Every living process under `root`, itself included.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

/// The living children of one process, whichever of its threads began them.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// CPU seconds used so far by `root`, by all it has waited for, and by all that lives under it.
pub fn cpu_seconds(root: u32) -> f64 {
    descendants(root).into_iter().filter_map(stat_ticks).sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// utime + stime + cutime + cstime of proc(5); the command's name may hold blanks and brackets, so count from its end.
fn stat_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 2..];
    after_name.split(' ').skip(11).take(4).map(|field| field.parse::<u64>().ok()).sum()
}

/// True of a process that has ended and waits for its parent.
pub fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| stat.rfind(')').map(|at| stat[at..].starts_with(") Z"))).unwrap_or(false)
}

/// The kernel's own high-water mark of one process's resident memory, in bytes.
pub fn high_water_bytes(pid: u32) -> u64 {
    kilobytes_of(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Memory of one process with shared pages divided among their users, in bytes.
pub fn proportional_bytes(pid: u32) -> u64 {
    kilobytes_of(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Bytes written by anybody and not yet on disk, of the whole machine.
pub fn unsynced_bytes() -> u64 {
    kilobytes_of("/proc/meminfo", "Dirty:") + kilobytes_of("/proc/meminfo", "Writeback:")
}

fn kilobytes_of(path: &str, label: &str) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with(label))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_is_its_own_descendant() {
        let own = std::process::id();
        assert!(descendants(own).contains(&own));
        assert!(high_water_bytes(own) > 0);
        assert!(!is_zombie(own));
        assert!(stat_ticks(own).is_some());
    }
}
