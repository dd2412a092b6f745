//! The administrator's own commands: how the service and the server are stopped, started and asked whether they are well.

use crate::RescueError;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// What is left of what a command said.
const SAID_MAX: usize = 2000;
/// How often a service is asked whether it is well.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Runs a command of the configuration in a shell, for so long at most. What it starts may outlive it; its output does not keep it alive.
pub async fn run(what: &'static str, command: &str, limit: Duration) -> Result<(), RescueError> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]);
    run_until(what, command, shell, limit).await
}

/// The same of a program and its arguments, with no shell to read them.
pub(crate) async fn run_words(what: &'static str, words: &[String], limit: Duration) -> Result<(), RescueError> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments);
    run_until(what, &words.join(" "), command, limit).await
}

async fn run_until(what: &'static str, command: &str, mut program: Command, limit: Duration) -> Result<(), RescueError> {
    let failed = |status: String, said: String| RescueError::Hook { what, command: command.to_owned(), status, said };
    let out = tempfile::tempfile().map_err(RescueError::file("create a file in", std::env::temp_dir()))?;
    let cloned = || out.try_clone().map_err(RescueError::file("create a file in", std::env::temp_dir()));
    program.stdin(Stdio::null()).stdout(cloned()?).stderr(cloned()?).current_dir("/");
    // Ctrl-C is for the restore, which says where things stand.
    program.process_group(0);
    let mut child = program.spawn().map_err(|e| failed(e.to_string(), String::new()))?;
    let status = match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => status.map_err(|e| failed(e.to_string(), said(&out)))?,
        Err(_) => {
            if let Some(pid) = child.id() {
                let group = nix::unistd::Pid::from_raw(-(pid as i32));
                let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
            }
            return Err(failed(format!("no end after {} s", limit.as_secs()), said(&out)));
        }
    };
    if status.success() { Ok(()) } else { Err(failed(status.to_string(), said(&out))) }
}

/// Asks until the answer is yes, for so long at most.
pub(crate) async fn until_well(command: &str, limit: Duration) -> Result<(), RescueError> {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match run("ask whether the service is well", command, left.max(ASK_EVERY)).await {
            Ok(()) => return Ok(()),
            Err(error) if left.is_zero() => return Err(error),
            Err(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// The end of what it said.
fn said(mut out: &std::fs::File) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let length = out.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    let read = out.seek(SeekFrom::Start(length.saturating_sub(SAID_MAX as u64))).and_then(|_| out.read_to_end(&mut bytes));
    if read.is_err() {
        bytes.clear();
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_fails_is_quoted_with_what_it_said() {
        run("test", "true", Duration::from_secs(5)).await.unwrap();
        let Err(RescueError::Hook { status, said, .. }) = run("test", "echo no such unit >&2; exit 5", Duration::from_secs(5)).await else {
            panic!("it failed")
        };
        assert!(status.contains('5') && said == "no such unit", "{status} {said}");
    }

    #[tokio::test]
    async fn what_it_leaves_running_does_not_keep_it_and_what_hangs_is_ended() {
        let begun = Instant::now();
        run("test", "sleep 3 &", Duration::from_secs(2)).await.unwrap();
        let Err(RescueError::Hook { status, .. }) = run("test", "sleep 60", Duration::from_millis(200)).await else { panic!("it hangs") };
        assert!(status.contains("no end"), "{status}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_service_may_take_a_while_to_be_well() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("well");
        let command = format!("test -e {0} || {{ touch {0}; exit 1; }}", file.display());
        until_well(&command, Duration::from_secs(20)).await.unwrap();
        until_well("exit 7", Duration::from_millis(1)).await.unwrap_err();
    }
}
