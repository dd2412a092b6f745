//! Describes the machine in words, for the head of the report.

use std::fs;
use std::path::Path;

/// Processor, cores, memory, kernel and file system in one sentence; no names or paths.
pub fn words(dir: &Path) -> String {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kind = if field("/proc/cpuinfo", "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")) {
        "a virtual machine"
    } else {
        "a machine"
    };
    format!(
        "{kind} with {cores} cores ({cpu}), {:.0} GiB of memory, Linux {}, {} on a local disk",
        memory / 1024.0 / 1024.0,
        kernel.trim().split('-').next().unwrap_or_default(),
        file_system(dir).unwrap_or_else(|| "an unknown file system".to_owned()),
    )
}

fn field(path: &str, label: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(label))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Type of the file system that holds `dir`: that of the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = fs::canonicalize(dir).ok()?;
    fs::read_to_string("/proc/mounts")
        .ok()?
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}
