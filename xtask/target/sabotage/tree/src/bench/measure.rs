//! Runs one command as the postgres user and measures it: wall, CPU of every process that did its work, peak memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, User};
use serde::Serialize;

use super::{Outcome, tree};

/// A shell script and its environment; the environment of the bench itself is not passed on.
#[derive(Clone, Default)]
pub struct Script {
    pub text: String,
    pub env: BTreeMap<String, String>,
}

impl Script {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), env: BTreeMap::new() }
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }
}

/// What one measured command cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// From its start until its work is complete, seconds.
    pub wall: f64,
    /// User and system seconds of the command and of all it began.
    pub cpu_tool: f64,
    /// The same of PostgreSQL, its archive commands included.
    pub cpu_server: f64,
    /// The same of the S3 server; it is nobody's cost, but the tool shares the machine with it.
    pub cpu_bucket: f64,
    /// Peak memory, bytes: the greater of the largest process's high-water mark and the greatest sampled sum of
    /// proportional set sizes over all its processes.
    pub peak_memory: u64,
    /// Greatest sampled number of processes at once.
    pub processes: usize,
    /// What the sampling itself cost, seconds of CPU.
    pub cpu_sampling: f64,
}

impl Cost {
    pub fn cpu(&self) -> f64 {
        self.cpu_tool + self.cpu_server
    }
}

/// The processes that stay up between commands and are charged separately.
#[derive(Clone, Copy, Default)]
pub struct Standing {
    pub server: Option<u32>,
    pub bucket: Option<u32>,
    /// A receiver a tool keeps running beside its backups; charged to the tool.
    pub helper: Option<u32>,
}

impl Standing {
    fn cpu(pid: Option<u32>) -> f64 {
        pid.map_or(0.0, tree::cpu_seconds)
    }

    fn holds(&self, pid: u32) -> bool {
        [self.server, self.bucket, self.helper].contains(&Some(pid))
    }
}

/// A command that will run as the postgres user with only the given environment.
pub fn as_postgres(program: impl AsRef<Path>, log: &Path) -> Outcome<Command> {
    let user = User::from_name("postgres")?.ok_or("there is no postgres user on this machine")?;
    let mut command = Command::new(program.as_ref());
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", user.dir.parent().filter(|dir| dir.exists()).unwrap_or(Path::new("/")));
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    if nix::unistd::geteuid().is_root() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    Ok(command)
}

/// Gives a path to the postgres user.
pub fn give_to_postgres(path: &Path) -> Outcome<()> {
    let user = User::from_name("postgres")?.ok_or("there is no postgres user on this machine")?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    Ok(())
}

/// Makes a directory, empty, owned by postgres and closed to others (PostgreSQL insists).
pub fn fresh_dir(path: &Path) -> Outcome<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    give_to_postgres(path)?;
    Ok(path.to_owned())
}

/// Runs a script to its end, unmeasured.
pub fn run(script: &Script, log: &Path) -> Outcome<()> {
    let mut child = spawn(script, log)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(failed(script, log, &status.to_string())) }
}

/// Starts a script; the caller waits for it.
pub fn spawn(script: &Script, log: &Path) -> Outcome<Child> {
    let mut command = as_postgres("/bin/sh", log)?;
    command.arg("-euc").arg(&script.text).envs(&script.env);
    Ok(command.spawn()?)
}

/// Runs a script and measures it. `until` is called when it has ended and returns when its work is complete, for a tool
/// whose command ends before its backup can be restored; the clock runs until then.
pub fn measured(script: &Script, log: &Path, standing: Standing, until: impl FnOnce() -> Outcome<()>) -> Outcome<Cost> {
    reap_orphans(standing, None);
    let children_before = cpu_of(UsageWho::RUSAGE_CHILDREN)?;
    let before = [standing.server, standing.bucket, standing.helper].map(Standing::cpu);
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let mut child = spawn(script, log)?;
    let pid = child.id();
    let (status, wall, waited, peaks) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(pid, standing, &over));
        let status = child.wait();
        let waited = until();
        let wall = started.elapsed();
        over.store(true, Ordering::Release);
        (status, wall, waited, sampler.join())
    });
    let status = status?;
    if !status.success() {
        return Err(failed(script, log, &status.to_string()));
    }
    waited?;
    let peaks = peaks.map_err(|_| "the sampling thread failed")?;
    reap_orphans(standing, Some(Duration::from_secs(10)));
    let after = [standing.server, standing.bucket, standing.helper].map(Standing::cpu);
    let spent = |n: usize| (after[n] - before[n]).max(0.0);
    Ok(Cost {
        wall: wall.as_secs_f64(),
        cpu_tool: cpu_of(UsageWho::RUSAGE_CHILDREN)? - children_before + spent(2),
        cpu_server: spent(0),
        cpu_bucket: spent(1),
        peak_memory: peaks.high_water.max(peaks.proportional),
        processes: peaks.processes,
        cpu_sampling: peaks.cpu,
    })
}

/// Adopts what its tools leave behind, so that a process that detached itself is still measured. Call once.
pub fn adopt_orphans() -> Outcome<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Everything any file system holds is on disk when this returns; the seconds it took.
pub fn sync_all() -> f64 {
    let started = Instant::now();
    nix::unistd::sync();
    started.elapsed().as_secs_f64()
}

#[derive(Default)]
struct Peaks {
    high_water: u64,
    proportional: u64,
    processes: usize,
    cpu: f64,
}

/// Samples until told to stop. Listing a tree of processes and adding up their pages costs tenths of a millisecond that
/// the tool then lacks, so it is done every 50 and 100 ms; the high-water mark, which misses nothing in between, every 10.
fn sample(root: u32, standing: Standing, over: &AtomicBool) -> Peaks {
    let began = cpu_of(UsageWho::RUSAGE_THREAD).unwrap_or(0.0);
    let mut peaks = Peaks::default();
    let mut pids = vec![root];
    for turn in 0_u32.. {
        if over.load(Ordering::Acquire) {
            break;
        }
        if turn % 5 == 0 {
            pids = tool_processes(standing);
            peaks.processes = peaks.processes.max(pids.len());
        }
        if turn % 10 == 2 && pids.len() > 1 {
            let sum = pids.iter().map(|pid| tree::proportional_bytes(*pid)).sum();
            peaks.proportional = peaks.proportional.max(sum);
        }
        let largest = pids.iter().map(|pid| tree::high_water_bytes(*pid)).max().unwrap_or(0);
        peaks.high_water = peaks.high_water.max(largest);
        std::thread::sleep(Duration::from_millis(10));
    }
    peaks.cpu = cpu_of(UsageWho::RUSAGE_THREAD).unwrap_or(0.0) - began;
    peaks
}

/// Every process of the tool under measure: all that lives under the bench and is not the server or the bucket.
fn tool_processes(standing: Standing) -> Vec<u32> {
    tree::children(std::process::id())
        .into_iter()
        .filter(|pid| Some(*pid) != standing.server && Some(*pid) != standing.bucket)
        .flat_map(tree::descendants)
        .collect()
}

/// Waits for adopted processes, so that their CPU is counted: those that have ended, or, with a limit, all.
fn reap_orphans(standing: Standing, limit: Option<Duration>) {
    let started = Instant::now();
    loop {
        let orphans: Vec<u32> = tree::children(std::process::id()).into_iter().filter(|pid| !standing.holds(*pid)).collect();
        for pid in orphans.iter().filter(|pid| tree::is_zombie(**pid)) {
            let _ = waitpid(Pid::from_raw(*pid as i32), Some(WaitPidFlag::WNOHANG));
        }
        if orphans.is_empty() || limit.is_none_or(|limit| started.elapsed() > limit) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn cpu_of(who: UsageWho) -> Outcome<f64> {
    let usage = getrusage(who)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn failed(script: &Script, log: &Path, status: &str) -> Box<dyn std::error::Error> {
    let tail: Vec<String> = fs::read_to_string(log)
        .map(|text| text.lines().rev().take(12).map(str::to_owned).collect::<Vec<_>>().into_iter().rev().collect())
        .unwrap_or_default();
    format!("{status}: {}\n  {}", script.text.trim(), tail.join("\n  ")).into()
}
