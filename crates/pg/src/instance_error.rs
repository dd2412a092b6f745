//! What can go wrong with finding, starting and stopping PostgreSQL's programs.

use std::path::PathBuf;
use terms::{Class, Explain};

/// Trouble with PostgreSQL's programs or with a server that Bowline runs.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum InstanceError {
    /// No directory holds the programs of this major version.
    #[error("cannot find the programs of PostgreSQL {major}")]
    ProgramsMissing { major: u32, looked: Vec<String> },
    /// A program of PostgreSQL could not be run at all.
    #[error("cannot run {program:?}")]
    NotRun { program: PathBuf, why: std::io::Error },
    /// A program of PostgreSQL ended with an error.
    #[error("cannot {doing}")]
    Failed { doing: String, status: String, log: String },
    /// The server ended although it was expected to run.
    #[error("cannot keep PostgreSQL running on {data_dir:?}")]
    Ended { data_dir: PathBuf, status: String, log: String },
    /// The server did not get where it was expected in time.
    #[error("cannot wait any longer for PostgreSQL on {data_dir:?}")]
    Slow { data_dir: PathBuf, seconds: u64, log: String },
    /// A server runs in a directory that must be free of one.
    #[error("cannot use {data_dir:?}")]
    Running { data_dir: PathBuf, pid: u32 },
    /// A program that the server is to call cannot be run by its user.
    #[error("PostgreSQL's user (uid {uid}) cannot run {program:?}")]
    Unreachable { program: PathBuf, uid: u32, why: String },
    /// PostgreSQL refuses to run as root, and the directory belongs to root.
    #[error("cannot run PostgreSQL on {data_dir:?}")]
    OwnedByRoot { data_dir: PathBuf },
    /// A file or directory that the server needs could not be made, read or removed.
    #[error("cannot {doing} {path:?}")]
    Io { doing: &'static str, path: PathBuf, why: std::io::Error },
}

impl Explain for InstanceError {
    fn slug(&self) -> &'static str {
        match self {
            Self::ProgramsMissing { .. } => "pg-programs-missing",
            Self::NotRun { .. } => "pg-program-not-run",
            Self::Failed { .. } => "pg-program-failed",
            Self::Ended { .. } => "pg-ended",
            Self::Slow { .. } => "pg-slow",
            Self::Running { .. } => "pg-running",
            Self::Unreachable { .. } => "program-unreachable",
            Self::OwnedByRoot { .. } => "pg-owned-by-root",
            Self::Io { .. } => "pg-file",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::ProgramsMissing { .. } => Class::Missing,
            Self::NotRun { .. } | Self::Failed { .. } | Self::Ended { .. } => Class::Refused,
            Self::Unreachable { .. } | Self::OwnedByRoot { .. } | Self::Io { .. } => Class::Refused,
            Self::Slow { .. } => Class::Transient,
            Self::Running { .. } => Class::Held,
        }
    }

    fn detail(&self) -> String {
        let with_log = |what: String, log: &str| match log.trim() {
            "" => what,
            log => format!("{what} Its log ends:\n{log}"),
        };
        match self {
            Self::ProgramsMissing { looked, .. } => format!("Looked in {}.", looked.join(", ")),
            Self::NotRun { why, .. } | Self::Io { why, .. } => format!("{why}."),
            Self::Failed { status, log, .. } => with_log(format!("It ended with {status}."), log),
            Self::Ended { status, log, .. } => with_log(format!("The server ended with {status}."), log),
            Self::Slow { seconds, log, .. } => with_log(format!("It was given {seconds} s."), log),
            Self::Running { pid, .. } => format!("A PostgreSQL server runs there with process id {pid}."),
            Self::Unreachable { why, .. } => format!("{why}. PostgreSQL calls it for its WAL, by restore_command."),
            Self::OwnedByRoot { .. } => "It belongs to root, and PostgreSQL refuses to run as root.".into(),
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::ProgramsMissing { major, .. } => {
                format!("Install them (Debian, Ubuntu: apt-get install postgresql-{major}) or configure their directory.")
            }
            Self::Running { data_dir, .. } => format!("Stop it first: pg_ctl -D {} stop", data_dir.display()),
            Self::Unreachable { program, .. } => {
                format!(
                    "Let it lie where every user may run it (install -m 755 {} /usr/local/bin/bowline), and run it from there.",
                    program.display()
                )
            }
            Self::OwnedByRoot { .. } => "Give it to the user that runs PostgreSQL, usually postgres: chown -R postgres.".into(),
            _ => String::new(),
        }
    }
}
