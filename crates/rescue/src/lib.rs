//! The one-command restore: from a machine that burned, or a bare one, to a service that runs and is protected again.

mod error;
mod hooks;
mod journal;
mod references;
mod report;
mod run;
mod server;
mod supervise;

pub use error::RescueError;
pub use hooks::run as run_command;
pub use journal::{Journal, Lock, RecoveredTo, Stage};
pub use report::{Loss, RescueReport};
pub use run::rescue;
pub use server::Started;
pub use supervise::{Way, refuse_powerless, standing_of};

use checks::{Question, References, Referred};
use restore::{Detour, RestoreOptions, RestorePlan};
use std::path::Path;
use std::time::Duration;
use terms::{Advice, BackupId, Lsn, Timeline, Timestamp};

/// The administrator's commands, run in a shell; what is not given is left out, or done by Bowline itself.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    /// Run before anything is touched; never beside production.
    pub stop_service: Option<String>,
    /// Run once the server is up.
    pub start_service: Option<String>,
    /// Ends with 0 when the service is well.
    pub health: Option<String>,
    /// Without, `systemctl stop` for the unit that runs it, else a fast shutdown.
    pub stop_server: Option<String>,
    /// Without, `systemctl start` for the unit that ran it, else the server's own program.
    pub start_server: Option<String>,
    /// How long each may take, and how long the service may take to be well.
    pub limit: Duration,
}

/// What the recovered cluster is asked before anybody else may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// Nothing.
    None,
    /// Whether every database opens, and the user's questions.
    Questions,
    /// All that a drill asks: every index, table and row.
    Full,
}

/// How to rescue.
pub struct RescueOptions {
    /// How files are put in place and WAL is replayed; `occupied` is decided by how far the restore is.
    pub restoring: RestoreOptions,
    /// Of service and server.
    pub commands: Commands,
    /// What must pass before the server is started for all.
    pub validation: Validation,
    /// Those of the user's, asked unless there is no validation.
    pub questions: Vec<Question>,
    /// Roles to try to log in as; any will do to learn the superuser's name.
    pub roles: Vec<String>,
    /// Beside production and cut off from it: nothing is stopped, saved or protected.
    pub is_side: bool,
    /// Whether the server is started at the end, and whether it is protected again.
    pub starts: bool,
    /// By a receiver and a full backup; never a cluster whose epoch has ended, or a server that is not started.
    pub protects: bool,
    /// Whether what the old pg_wal holds beyond the repository is stored first.
    pub salvages: bool,
    /// Whether the application's objects come back as of the same instant.
    pub packages: bool,
    /// What tells to which objects the database refers; asked when it is validated.
    pub references: Option<References>,
}

/// What was found in the old pg_wal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salvage {
    /// Nothing beyond what is stored.
    Nothing {
        /// It was read to where the server ended.
        is_end: bool,
    },
    /// The log between these positions is stored now.
    Stored {
        /// The first byte that is new.
        from: Lsn,
        /// Excluded.
        to: Lsn,
        /// The server ended at `to`.
        is_end: bool,
    },
    /// It cannot be used, for this reason.
    Useless(String),
}

/// What a rescue is lent by those who store WAL and backups. Each may be called again when it failed.
pub trait Lent {
    /// Stores what the old pg_wal holds beyond what is stored.
    fn salvage(&self, data_dir: &Path) -> impl Future<Output = Result<Salvage, Advice>>;
    /// Plans again what is asked for, with all that is stored by now.
    fn plan(&self) -> impl Future<Output = Result<RestorePlan, Advice>>;
    /// The way around damage that the plan goes which was made last; `None` where it leads to what is asked for.
    fn detour(&self) -> Option<Detour>;
    /// Makes the slot, and returns when WAL of this timeline is proven to arrive in the repository.
    fn receive(&self, timeline: Timeline) -> impl Future<Output = Result<(), Advice>>;
    /// Brings the application's objects back as they were then, and holds them against what the database refers to, where that was asked;
    /// a report.
    fn restore_packages(&self, at: Timestamp, referred: Option<Referred>) -> impl Future<Output = Result<serde_json::Value, Advice>>;
    /// Makes a full backup.
    fn back_up(&self) -> impl Future<Output = Result<BackupId, Advice>>;
}
