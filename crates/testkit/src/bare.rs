//! A machine that has nothing but the program, PostgreSQL's programs, the repository's address and a copy of its key.

use crate::bowline::{Outcome, Restored, outcome_of, program};
use crate::launch::{self, Watchdog};
use crate::place::{new_home, write_private};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the service is brought back when its host is gone. Dropping it ends the servers on it and removes them.
#[derive(Debug)]
pub struct BareMachine {
    major: u32,
    home: PathBuf,
    repository: String,
    environment: Vec<(String, String)>,
    restores: AtomicU32,
    _watchdog: Watchdog,
}

impl BareMachine {
    /// A machine with PostgreSQL of this major and this text of a key file. `repository` is an address with all that is
    /// needed to reach it, secrets excepted: `s3://bucket/prefix?endpoint=…`.
    pub fn new(major: u32, repository: &str, key: &str) -> Self {
        let home = new_home();
        write_private(&home.join("spare-key"), key);
        let watchdog = Watchdog::start(&home.join("no-cluster"), &home);
        let repository = repository.to_owned();
        Self { major, home, repository, environment: Vec::new(), restores: AtomicU32::new(0), _watchdog: watchdog }
    }

    /// An environment variable for every command from now on, such as a bucket's secrets.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A directory of this machine's own, in which PostgreSQL's user may write.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs the program with `--repository`, `--org` and `--key`, without a configuration, and with `--json` to its end.
    pub fn run(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(program());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = launch::bin_dir(self.major);
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).expect("no colon in a path");
        command.env_clear().env("PATH", path).env("HOME", &self.home).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().cloned()).current_dir(&self.home).stdin(Stdio::null());
        if let Some((uid, gid)) = launch::server_user() {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(gid);
        }
        command.args(["--repository", &self.repository, "--org", "acme", "--key"]).arg(self.home.join("spare-key")).args(words);
        outcome_of(command, words)
    }

    /// Runs a command that must succeed and returns its result.
    pub fn ok(&self, words: &[&str]) -> serde_json::Value {
        self.run(words).result().clone()
    }

    /// A place for the next restore; nothing is there yet.
    pub fn new_target(&self) -> PathBuf {
        self.home.join(format!("r{}", self.restores.fetch_add(1, Ordering::Relaxed)))
    }

    /// Restores and leaves the server running; an error is what the command said when it failed.
    pub fn try_restore(&self, words: &[&str]) -> Result<Restored<'_>, Outcome> {
        let data = self.new_target();
        let mut all = vec!["restore", "--yes", "--target", data.to_str().expect("a plain path")];
        all.extend_from_slice(words);
        let outcome = self.run(&all);
        if outcome.code != 0 {
            return Err(outcome);
        }
        let result = outcome.result().clone();
        Ok(Restored::new(self.major, &self.home, data, result))
    }

    /// A restore that must succeed.
    pub fn restore(&self, words: &[&str]) -> Restored<'_> {
        self.try_restore(words).unwrap_or_else(|outcome| panic!("the restore failed: {outcome:#?}"))
    }
}
