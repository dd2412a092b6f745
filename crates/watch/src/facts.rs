//! Everything that was observed at one moment: what status prints, metrics count, rules judge and the page draws. Data only.
//!
//! Times are RFC 3339 with their zone, durations are seconds, sizes are bytes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use terms::{Advice, BackupId, Explain, Lsn, SystemId, Timeline, Timestamp};

/// One observation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    pub at: Timestamp,
    pub org: String,
    pub objectives: Objectives,
    pub repository: Look<RepositoryFacts>,
    pub server: Look<ServerFacts>,
    /// Whether the data keys open, for each recipient; absent where encryption is off.
    pub keys: Option<Look<Vec<RecipientFacts>>>,
    pub second_copy: Option<Look<CopyFacts>>,
    pub capacity: Option<Look<CapacityFacts>>,
    /// Room on this host that Bowline or PostgreSQL needs.
    pub disks: Vec<DiskFacts>,
    pub jobs: Vec<JobFacts>,
    /// The receiver that the daemon supervises; absent where no daemon runs it.
    pub receiver: Option<ReceiverFacts>,
    /// What the last scrub left: `scrub/state.json`, in short.
    pub scrub: Option<ScrubFacts>,
    pub packages: Option<Look<PackagesFacts>>,
    /// Who acts: the holder of the daemon's lease, as far as known.
    pub acting: Option<String>,
    /// Since when the one who is to act has not been heard of.
    #[serde(default)]
    pub daemon_silent_since: Option<Timestamp>,
    /// A configuration that was to be loaded and is wrong; the former one is in force.
    pub configuration: Option<Trouble>,
}

/// Seen, or why not. What was not seen is neither well nor not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look<T> {
    Seen(T),
    Unseen(Trouble),
}

impl<T> Look<T> {
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(value) => Some(value),
            Self::Unseen(_) => None,
        }
    }
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Seen(_) => None,
            Self::Unseen(trouble) => Some(trouble),
        }
    }
}

/// Why something could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub slug: String,
    pub summary: String,
    pub detail: String,
    pub hint: String,
}

impl Trouble {
    pub fn of(error: &impl Explain) -> Self {
        Self::from(error.advice())
    }
}

impl From<Advice> for Trouble {
    fn from(advice: Advice) -> Self {
        Self { slug: advice.slug.into(), summary: advice.summary, detail: advice.detail, hint: advice.hint }
    }
}

/// What everything is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objectives {
    pub rpo_seconds: f64,
    pub rto_seconds: f64,
    /// How long a backup may take.
    pub backup_window_seconds: f64,
    /// How long WAL may wait before people are told.
    pub wal_lag_seconds: f64,
    /// How far the packages' replica, or the second copy, may be behind.
    pub replication_lag_seconds: f64,
    pub capacity_warning: f64,
    pub capacity_critical: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryFacts {
    pub address: String,
    pub id: String,
    pub created: Timestamp,
    pub is_encrypted: bool,
    pub system_id: Option<SystemId>,
    /// The clusters that it holds, oldest first.
    pub epochs: Vec<EpochFacts>,
    /// Oldest first.
    pub backups: Vec<BackupFacts>,
    /// What can be restored of the present cluster; absent without a backup of it.
    pub window: Option<Window>,
    /// Instants in the window that cannot be restored, by the last audit.
    pub gaps: Vec<GapFacts>,
    /// When the log was last audited.
    pub audited: Option<Timestamp>,
    pub stored: Option<StoredFacts>,
    pub restore: Option<EstimateFacts>,
    /// Newest first.
    pub drills: Vec<DrillFacts>,
    /// What retention let go and a later run removes.
    pub expired: ExpiredFacts,
}

/// One cluster, from an initdb or upgrade to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochFacts {
    pub system_id: SystemId,
    pub major: u32,
    pub since: Timestamp,
    pub is_present: bool,
    pub backups: u64,
    /// Older backups that retention keeps for their own end alone.
    pub backups_alone: u64,
    pub restorable_from: Option<Timestamp>,
    pub restorable_from_lsn: Option<Lsn>,
    pub covered_until: Option<Timestamp>,
    pub covered_until_lsn: Option<Lsn>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupFacts {
    pub id: BackupId,
    /// When it began, and when it was consistent: no earlier instant can be reached from it.
    pub began: Timestamp,
    pub at: Timestamp,
    pub bytes: u64,
    pub bytes_stored: u64,
    pub took_seconds: f64,
    pub pages_damaged: u64,
    pub server_version: String,
    /// Of the cluster that the repository follows now.
    pub is_present: bool,
    /// Every instant after it can be restored, not only its own end.
    pub reaches_on: bool,
    pub is_daily: bool,
    pub is_monthly: bool,
    /// Why retention keeps it, in words.
    pub kept: Vec<String>,
    pub held: Option<String>,
    /// Its newest drill that ended in a verdict.
    pub drilled: Option<Drilled>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    pub at: Timestamp,
    pub passed: bool,
}

/// From the first instant that can be restored to the last one that is proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    pub from: Timestamp,
    pub from_lsn: Lsn,
    pub backup: BackupId,
    /// By the coverage mark: then the server had promised nobody anything beyond. Absent until the first mark.
    pub until: Option<Timestamp>,
    pub until_lsn: Option<Lsn>,
}

/// Instants that cannot be restored: `from` excluded is still served, `until` is again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GapFacts {
    pub from: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub what: String,
}

/// Where the stored log ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredFacts {
    pub lsn: Lsn,
    pub timeline: Timeline,
    pub last_transaction: Option<Timestamp>,
    /// A segment that is missing although more was stored once.
    pub hole: Option<String>,
    pub segments: u64,
}

/// How long a restore of the newest backup and all WAL since would take, by the rates of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstimateFacts {
    pub seconds: f64,
    pub files_seconds: f64,
    pub replay_seconds: f64,
    /// When the drill was that it is by.
    pub by: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillFacts {
    pub at: Timestamp,
    /// `passed`, `failed` or `not-verified`.
    pub outcome: String,
    pub backup: Option<BackupId>,
    pub target: String,
    pub seconds: f64,
    pub phases: Vec<PhaseFacts>,
    pub databases: u64,
    pub tables: u64,
    pub rows: u64,
    pub checks: u64,
    /// What was wrong or could not be looked at, in words; the first ten.
    pub faults: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseFacts {
    pub name: String,
    pub seconds: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpiredFacts {
    pub backups: u64,
    pub bytes: u64,
    /// When the oldest of them was unlisted.
    pub since: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerFacts {
    pub version: String,
    pub system_id: SystemId,
    /// It is the cluster that the repository follows; absent where the repository could not be looked at.
    pub is_ours: Option<bool>,
    pub in_recovery: bool,
    pub lsn: Lsn,
    /// WAL that is not stored yet.
    pub wal_lag_bytes: Option<u64>,
    /// Since when commits are exposed: the age of the newest stored transaction while WAL waits, else nothing.
    pub wal_lag_seconds: Option<f64>,
    pub is_synchronous: bool,
    pub slot: SlotFacts,
    /// Of the slot and of synchronous commit: what is not well.
    pub findings: Vec<FindingFacts>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotFacts {
    pub name: String,
    pub exists: bool,
    /// Somebody streams from it.
    pub active: bool,
    pub wal_status: Option<String>,
    pub held_bytes: Option<u64>,
    pub safe_wal_bytes: Option<u64>,
    pub wal_dir_bytes: Option<u64>,
    pub wal_bytes_per_second: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingFacts {
    pub slug: String,
    /// `unknown`, `warn` or `critical`.
    pub severity: String,
    pub what: String,
    pub cause: String,
    pub remedy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientFacts {
    pub name: String,
    /// Absent: it opens, or cannot be asked here by its nature.
    pub trouble: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyFacts {
    pub address: String,
    pub lag_seconds: Option<f64>,
    pub backups: u64,
    pub backups_missing: u64,
    pub is_late: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacityFacts {
    /// `quota` (by configuration) or `disk`.
    pub kind: String,
    pub used_bytes: u64,
    pub limit_bytes: u64,
    /// By the measured days; absent until two are measured.
    pub growth_bytes_per_day: Option<f64>,
    pub days_to_full: Option<f64>,
    /// Day by day, oldest first.
    pub history: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at: Timestamp,
    pub value: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// `pg_wal`, `drill` or `spool`.
    pub name: String,
    pub path: String,
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// What is needed there, as far as known.
    pub needed_bytes: Option<u64>,
}

/// A job of the schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobFacts {
    /// `backup`, `drill`, `expire`, `scrub`, `audit`, `check`.
    pub name: String,
    pub schedule: String,
    pub zone: String,
    pub next: Option<Timestamp>,
    /// It should have succeeded by now; since when.
    pub overdue_since: Option<Timestamp>,
    /// Under way, by this daemon.
    pub running: Option<RunningFacts>,
    /// The newest runs that the ledger knows, newest first: what decides when it begins again.
    pub past: Vec<PastRun>,
    pub last: Option<RunFacts>,
    pub last_success: Option<RunFacts>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastRun {
    pub run: String,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// It needs no other try: it succeeded, or found what it was to find.
    pub is_settled: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningFacts {
    pub run: String,
    pub began: Timestamp,
    pub bytes_done: Option<u64>,
    pub bytes_total: Option<u64>,
    /// By the rate so far.
    pub expected_seconds: Option<f64>,
}

/// One run of the ledger, without its log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunFacts {
    /// Its name, such as `20261122T020000Z-backup`.
    pub run: String,
    pub job: String,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// `running`, `ok`, `failed`, `refused` (another one was under way) or `broken-off`.
    pub outcome: String,
    pub slug: Option<String>,
    pub summary: Option<String>,
    pub hint: Option<String>,
    pub bytes: Option<u64>,
    pub by: String,
    /// What the command printed as its result, in short.
    pub result: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceiverFacts {
    /// `streaming`, `waiting` (another one receives), `disconnected` or `down`.
    pub state: String,
    pub since: Option<Timestamp>,
    /// Why it does not stream.
    pub why: Option<String>,
    /// WAL waits for the store for so long.
    pub held_up_seconds: Option<f64>,
    /// Commits wait with it.
    pub commits_wait: bool,
    /// What it found that no restore gets past, in words.
    pub breaks: Vec<String>,
    /// Seconds of lag over time, oldest first.
    pub lag: Vec<Sample>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubFacts {
    pub last: Option<Timestamp>,
    pub objects: u64,
    pub bytes: u64,
    /// When the object that waited longest was verified.
    pub oldest_verified: Option<Timestamp>,
    /// Damaged or missing objects, in words.
    pub damage: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PackagesFacts {
    pub mode: String,
    /// The worst of the canary and the listing; absent when neither tells.
    pub lag_seconds: Option<f64>,
    /// When the newest complete listing began; absent before there is one.
    #[serde(default)]
    pub listed: Option<Timestamp>,
    /// When the oldest canary was written that the copy lacks.
    #[serde(default)]
    pub canary_awaited: Option<Timestamp>,
    /// When the newest canary was written that the copy has, where that is not long ago.
    #[serde(default)]
    pub canary_arrived: Option<Timestamp>,
    /// Why there is no canary although one is wanted.
    #[serde(default)]
    pub canary_trouble: Option<Trouble>,
    /// The oldest version that the copy lacks: the lag grows with it until the next listing.
    #[serde(default)]
    pub oldest_behind: Option<Timestamp>,
    /// What a copy that is made now and then may be behind without anybody having to act; 0 for one that is kept all the time.
    #[serde(default)]
    pub usual_seconds: f64,
    pub behind: u64,
    pub failed: u64,
    pub objects: u64,
    pub bytes: u64,
}

impl PackagesFacts {
    /// How far the copy is behind at this moment: by the oldest of what it lacks, be that a canary or an object.
    pub fn lag_at(&self, now: Timestamp) -> Option<f64> {
        let oldest = self.oldest_behind.into_iter().chain(self.canary_awaited).min();
        oldest.map(|oldest| now.seconds_since(oldest).max(0.0)).or(self.lag_seconds)
    }

    /// The same by the canary alone.
    pub fn canary_lag_at(&self, now: Timestamp) -> Option<f64> {
        let awaited = self.canary_awaited.map(|awaited| now.seconds_since(awaited).max(0.0));
        awaited.or(self.canary_arrived.map(|_| 0.0))
    }
}

impl Trouble {
    /// It was not looked at yet; nothing is wrong.
    pub const NOT_YET: &str = "not-yet";
}
