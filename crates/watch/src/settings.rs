//! What an observation needs to know beforehand, and how it reaches what it looks at.

use crate::Trouble;
use crate::facts::Objectives;
use async_trait::async_trait;
use pg::ConnInfo;
use repo::Reader;
use repo::retention::RetentionPolicy;
use seal::Recipient;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use terms::Schedule;

/// A job of the schedule.
#[derive(Debug, Clone)]
pub struct JobPlan {
    /// As the ledger has it, such as `backup`.
    pub name: &'static str,
    /// When it is due; `expire` has the backup's.
    pub schedule: Schedule,
    /// How long after its time it must have succeeded.
    pub slack: Duration,
    /// Nobody need run it: it is overdue only once it was run, or while a daemon acts.
    pub is_optional: bool,
}

/// What the configuration says about watching.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose repository it is; every alert names it.
    pub org: String,
    /// What observations are held against.
    pub objectives: Objectives,
    /// All of them, those included that this host leaves to another.
    pub jobs: Vec<JobPlan>,
    /// A run that has no end for so long broke off: a daemon would have ended it by then.
    pub lost_after: Duration,
    /// The daemon of this configuration receives WAL: `daemon.receive`.
    pub receives: bool,
    /// The replication slot that the receiver streams from.
    pub slot: String,
    /// How often the receiver reports to the server; a `wal_sender_timeout` below three times that is a finding.
    pub status_interval: Duration,
    /// Commits wait until their WAL is stored: `wal.synchronous`.
    pub is_synchronous: bool,
    /// The receiver's name in pg_stat_replication.
    pub receiver: &'static str,
    /// The server's, when it is on this host; then room and pg_wal are looked at, too.
    pub data_dir: Option<PathBuf>,
    /// Where drills are held; `None` where somebody else holds them, on a disk that is not looked at from here.
    pub drill_dir: Option<PathBuf>,
    /// By which it is told why each backup is kept.
    pub policy: RetentionPolicy,
    /// How many bytes the repository may take; a folder's disk otherwise.
    pub quota_bytes: Option<u64>,
    /// The repository's folder, where it is one.
    pub folder: Option<PathBuf>,
}

/// Opens what is looked at. Each call opens anew.
#[async_trait]
pub trait Doors: Send + Sync {
    /// The repository, with whatever opens its data keys.
    async fn reader(&self) -> Result<Reader, Trouble>;
    /// The second copy, where one is configured.
    async fn replica(&self) -> Option<Result<Reader, Trouble>>;
    /// Each of those who open the repository, whatever is wrong with it.
    fn recipients(&self) -> Result<Vec<Arc<dyn Recipient>>, Trouble>;
    /// How the server is reached, without connecting to it.
    fn server(&self) -> Result<ConnInfo, Trouble>;
    /// What the packages' monitor says, where packages are configured. Who acts may write there what the monitor needs.
    async fn packages(&self, is_acting: bool) -> Option<Result<crate::facts::PackagesFacts, Trouble>>;
}
