//! A job as a process of its own: the same command that people type, listened to while it runs.
//!
//! What hangs, leaks or dies there takes nothing else with it, and what a job does is exactly what its command does.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Lines of a running command that are kept to be shown.
const LOG_LINES: usize = 400;

/// How this program is called.
#[derive(Debug, Clone)]
pub struct Program {
    /// The `bowline` executable.
    pub path: PathBuf,
    /// Before the verb, such as `--config FILE`.
    pub arguments: Vec<String>,
    /// The environment variable that says on whose behalf it runs.
    pub mark: &'static str,
}

/// What a command has said so far.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// What it prints for people, on standard error: the last lines.
    pub log: VecDeque<String>,
    /// The ledger's name of the run.
    pub run: Option<String>,
    /// Its last event of that name, whole; `None` before the first.
    pub progress: Option<Value>,
    /// What it printed as `result` on standard output; `None` until then.
    pub result: Option<Value>,
    /// What it printed as `error`, with its slug; `None` where it did not fail, or died without a word.
    pub error: Option<Value>,
}

/// A command that runs.
pub struct Running {
    pub verb: String,
    child: Child,
    said: Arc<Mutex<Said>>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<ExitStatus>,
    pub said: Said,
}

impl Ended {
    pub fn is_ok(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

impl Program {
    /// Starts a command. Each line that it prints as JSON also goes to `events`, where somebody listens.
    pub fn start(&self, words: &[&str], events: Option<mpsc::UnboundedSender<Value>>) -> std::io::Result<Running> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg("--json").args(words).env(self.mark, "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let die_with_parent = || nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(Into::into);
        // SAFETY: prctl is async-signal-safe. The threads of the runtime that start processes live as long as the daemon.
        unsafe { command.pre_exec(die_with_parent) };
        let mut child = command.spawn()?;
        let said = Arc::new(Mutex::new(Said::default()));
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(tokio::spawn(read_json(out, Arc::clone(&said), events)));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(tokio::spawn(read_text(err, Arc::clone(&said))));
        }
        Ok(Running { verb: words.join(" "), child, said, readers })
    }
}

impl Running {
    pub fn said(&self) -> Said {
        lock(&self.said).clone()
    }

    /// For those who watch it and may end it, while another waits for its end.
    pub fn handle(&self) -> Handle {
        Handle { said: Arc::clone(&self.said), pid: self.child.id().and_then(|pid| i32::try_from(pid).ok()) }
    }

    /// Tells it to end: politely, or not.
    pub fn signal(&self, signal: Signal) {
        // Once it was waited for it has no number any more, and its number may be another's.
        if self.child.id().is_some() {
            self.handle().signal(signal);
        }
    }

    /// Waits for its end, and for the last word of it. Dropped before that, it goes on waiting when called again.
    pub async fn ended(&mut self) -> Ended {
        let status = self.child.wait().await.ok();
        // A grandchild may hold the pipe: what it says is nobody's.
        let patience = tokio::time::sleep(std::time::Duration::from_secs(2));
        tokio::pin!(patience);
        while let Some(reader) = self.readers.last_mut() {
            tokio::select! {
                _ = reader => drop(self.readers.pop()),
                () = &mut patience => break,
            }
        }
        Ended { status, said: self.said() }
    }
}

/// A command that another waits for.
#[derive(Clone)]
pub struct Handle {
    said: Arc<Mutex<Said>>,
    pid: Option<i32>,
}

impl Handle {
    pub fn said(&self) -> Said {
        lock(&self.said).clone()
    }

    /// Tells it, and what it started, to end. Only while it is known to run.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _ = kill(Pid::from_raw(-pid), signal);
        }
    }
}

fn lock(said: &Mutex<Said>) -> std::sync::MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_json(from: impl AsyncRead + Unpin, said: Arc<Mutex<Said>>, events: Option<mpsc::UnboundedSender<Value>>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(mut value) = serde_json::from_str::<Value>(&line) else { continue };
        {
            let mut said = lock(&said);
            match value["event"].as_str() {
                Some("run-begun") => said.run = value["run"].as_str().map(str::to_owned),
                Some("progress") => said.progress = Some(value.clone()),
                _ => {}
            }
            for (name, place) in [("result", 0), ("error", 1)] {
                if !value[name].is_null() {
                    let found = Some(value[name].take());
                    if place == 0 { said.result = found } else { said.error = found }
                }
            }
        }
        if let Some(events) = &events {
            drop(events.send(value));
        }
    }
}

async fn read_text(from: impl AsyncRead + Unpin, said: Arc<Mutex<Said>>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = lock(&said);
        if said.log.len() >= LOG_LINES {
            said.log.pop_front();
        }
        said.log.push_back(line);
    }
}
