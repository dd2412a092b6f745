//! Servers that run, or are to run, the ordinary way: seen, stopped and started by their data directory.

use crate::instance_error::InstanceError;
use crate::programs::{command, owner_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `postmaster.pid` says (src/include/utils/pidfile.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    /// The process, of a single-user backend too, whose number PostgreSQL writes as negative.
    pub(crate) pid: u32,
    /// Line 8: `starting`, `stopping`, `ready` or `standby`; empty until it is written.
    pub(crate) status: String,
}

/// Reads `postmaster.pid`; `None` when there is none, or no process id in it yet. In a container the server is the first process.
pub(crate) fn read_pid_file(data_dir: &Path) -> Option<PidFile> {
    let text = fs::read(data_dir.join("postmaster.pid")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    let status = lines.nth(6).unwrap_or_default().trim().to_owned();
    Some(PidFile { pid: pid.unsigned_abs(), status }).filter(|file| file.pid > 0 && file.pid <= i32::MAX as u32)
}

/// What `postmaster.pid` says, word for word. Process and time of the start are in it, so that another server's differs; it tells of a server
/// in a container, too, whose process cannot be seen from here.
pub fn pid_file_text(data_dir: &Path) -> Option<String> {
    fs::read(data_dir.join("postmaster.pid")).ok().map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// Whether the server that wrote this `postmaster.pid` lets connections in, by line 8.
pub fn is_ready_by(text: &str) -> bool {
    text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
}

/// The server that runs in this data directory, if one does. A process id left over from before a crash may belong to
/// another program by now, so the process must have the directory as its working directory, as every server has.
pub fn server_running_in(data_dir: &Path) -> Option<u32> {
    let pid = read_pid_file(data_dir)?.pid;
    let cwd = Path::new("/proc").join(pid.to_string()).join("cwd");
    match (fs::metadata(&cwd), fs::metadata(data_dir)) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
        // Another user's process: believe its name rather than harm a server that runs.
        (Err(why), _) if why.kind() == std::io::ErrorKind::PermissionDenied => {
            let name = fs::read_to_string(cwd.with_file_name("comm")).unwrap_or_default();
            name.starts_with("postgres") || name.starts_with("postmaster")
        }
        _ => false,
    }
    .then_some(pid)
}

/// Processes of PostgreSQL that still work in this directory although its postmaster is gone: they may write to it. Of other users' processes
/// only root learns.
pub fn survivors_in(data_dir: &Path) -> Vec<u32> {
    let Ok(here) = fs::metadata(data_dir) else { return Vec::new() };
    let is_there = |pid: &u32| {
        let process = Path::new("/proc").join(pid.to_string());
        let is_postgres = || fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("postgres"));
        fs::metadata(process.join("cwd")).is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (here.dev(), here.ino())) && is_postgres()
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_there).collect()
}

/// Stops the server that runs in this directory, its sessions cut off, its data written out (`pg_ctl stop -m fast`);
/// false when none ran. Fails when it still runs after `limit`: nothing was forced.
pub async fn stop_server(data_dir: &Path, limit: Duration) -> Result<bool, InstanceError> {
    let Some(pid) = server_running_in(data_dir) else { return Ok(false) };
    let begun = Instant::now();
    // A server that has just ended by itself is as good as stopped: the loop sees it.
    if let Err(why) = kill(Pid::from_raw(pid as i32), Signal::SIGINT)
        && why != nix::errno::Errno::ESRCH
    {
        return Err(InstanceError::Io { doing: "stop the server in", path: data_dir.to_owned(), why: why.into() });
    }
    while server_running_in(data_dir) == Some(pid) {
        if begun.elapsed() > limit {
            return Err(InstanceError::Slow { data_dir: data_dir.to_owned(), seconds: limit.as_secs(), log: String::new() });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(true)
}

/// Starts the server as its administrator would (`pg_ctl start`), as the directory's owner and to outlive Bowline, and
/// waits until it lets connections in. `settings` are given on its command line; `log` takes its output and must be
/// writable for the owner. Where the configuration is outside the directory, `config_file` must be among the settings.
pub async fn start_normally(
    bin_dir: &Path,
    data_dir: &Path,
    settings: &[(String, String)],
    log: &Path,
    limit: Duration,
) -> Result<(), InstanceError> {
    if let Some(pid) = server_running_in(data_dir) {
        return Err(InstanceError::Running { data_dir: data_dir.to_owned(), pid });
    }
    let program = bin_dir.join("pg_ctl");
    let mut command = command(&program, owner_of(data_dir)?, data_dir)?;
    command.arg("start").arg("-w").arg("-t").arg(limit.as_secs().max(1).to_string());
    command.arg("-D").arg(data_dir).arg("-l").arg(log);
    if !settings.is_empty() {
        // pg_ctl hands these words to a shell.
        let words: Vec<String> = settings.iter().map(|(key, value)| format!("-c {}", shell_quoted(&format!("{key}={value}")))).collect();
        command.arg("-o").arg(words.join(" "));
    }
    let output = tokio::process::Command::from(command).output().await.map_err(|why| InstanceError::NotRun { program, why })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let log = format!("{}\n{}", said.trim(), last_lines(log));
    Err(InstanceError::Failed { doing: format!("start PostgreSQL on {data_dir:?}"), status: output.status.to_string(), log })
}

/// Waits until the server that was started in this directory by whoever lets connections in.
pub async fn until_ready(data_dir: &Path, limit: Duration) -> Result<(), InstanceError> {
    let begun = Instant::now();
    while read_pid_file(data_dir).is_none_or(|file| file.status != "ready") || server_running_in(data_dir).is_none() {
        if begun.elapsed() > limit {
            return Err(InstanceError::Slow { data_dir: data_dir.to_owned(), seconds: limit.as_secs(), log: String::new() });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The last lines of a log, for an error: no more than 20, read from the file's last 16 KiB.
pub(crate) fn last_lines(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16 << 10)..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_left_over_from_a_crash_is_no_server() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(server_running_in(dir.path()), None);
        // This test's own process is alive, but works elsewhere.
        for text in [format!("{}\n", std::process::id()), "1\n".into(), "999999999999\n".into(), "x".into(), "-5\n".into(), String::new()] {
            fs::write(dir.path().join("postmaster.pid"), &text).unwrap();
            assert_eq!(server_running_in(dir.path()), None, "{text:?}");
        }
    }

    #[test]
    fn the_status_is_the_eighth_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("postmaster.pid"), "42\n/data\n1700000000\n5432\n/tmp\n\n  123 4\nstandby \n").unwrap();
        assert_eq!(read_pid_file(dir.path()), Some(PidFile { pid: 42, status: "standby".into() }));
    }

    #[test]
    fn the_first_process_of_a_container_may_be_a_server() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("postmaster.pid"), "1\n/data\n1700000000\n5432\n/tmp\n\n  123 4\nready   \n").unwrap();
        assert_eq!(read_pid_file(dir.path()), Some(PidFile { pid: 1, status: "ready".into() }));
    }

    #[test]
    fn a_setting_reaches_the_shell_as_one_word() {
        assert_eq!(shell_quoted("a='b c'"), r"'a='\''b c'\'''");
    }
}
