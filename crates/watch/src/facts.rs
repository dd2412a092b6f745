//! Everything that was observed at one moment: what status prints, metrics count, rules judge and the page draws. Data only.
//!
//! Times are RFC 3339 with their zone, durations are seconds, sizes are bytes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::OldVersions;
use terms::{Advice, BackupId, Class, Explain, Lsn, SystemId, Timeline, Timestamp};

/// One observation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// When the look began, by the clock of the host that looks.
    pub at: Timestamp,
    /// Whose repository it is: `org` of the configuration.
    pub org: String,
    /// By the configuration, not by what was observed.
    pub objectives: Objectives,
    /// Of the bucket or folder; each rule that judges by it is unknown where it is unseen.
    pub repository: Look<RepositoryFacts>,
    /// Of PostgreSQL, asked over SQL.
    pub server: Look<ServerFacts>,
    /// Whether the data keys open, for each recipient; absent where encryption is off, and where the repository cannot be opened.
    pub keys: Option<Look<Vec<RecipientFacts>>>,
    /// The repository's replica; absent where none is configured, and where the repository itself cannot be opened.
    pub second_copy: Option<Look<CopyFacts>>,
    /// Absent where neither a quota is set nor the repository is a folder, and where the repository is unseen.
    pub capacity: Option<Look<CapacityFacts>>,
    /// Room on this host that Bowline or PostgreSQL needs.
    pub disks: Vec<DiskFacts>,
    /// Names of those that did not say in time how full they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks_unseen: Vec<String>,
    /// In the order of the schedule; empty until the ledger was read once.
    pub jobs: Vec<JobFacts>,
    /// The receiver that the daemon supervises; absent where no daemon runs it.
    pub receiver: Option<ReceiverFacts>,
    /// What the last scrub left: `scrub/state.json`, in short.
    pub scrub: Option<ScrubFacts>,
    /// The application's own objects; absent where none are configured.
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
    /// It could be looked at, now or as long ago as its age allows.
    Seen(T),
    /// It could not, and this is why.
    Unseen(Trouble),
}

impl<T> Look<T> {
    /// What was seen, if it was.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(value) => Some(value),
            Self::Unseen(_) => None,
        }
    }
    /// Why it was not seen, if it was not.
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
    /// A stable word to search for, such as `look-timeout`.
    pub slug: String,
    /// What could not be done, in one line.
    pub summary: String,
    /// The object and the cause; empty when the summary says it all.
    pub detail: String,
    /// The next step; empty when there is none to offer.
    pub hint: String,
    /// It was there, and is damaged: that is no sign that anything else is away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_damage: bool,
}

impl Trouble {
    /// All that an error explains of itself, but for its class.
    pub fn of(error: &impl Explain) -> Self {
        Self::from(error.advice())
    }
}

impl From<Advice> for Trouble {
    fn from(advice: Advice) -> Self {
        let is_damage = advice.class == Class::Damaged;
        Self { slug: advice.slug.into(), summary: advice.summary, detail: advice.detail, hint: advice.hint, is_damage }
    }
}

/// What everything is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objectives {
    /// How much may be lost at most: `objectives.rpo`.
    pub rpo_seconds: f64,
    /// How long a restore may take: `objectives.rto`.
    pub rto_seconds: f64,
    /// How long a backup may take.
    pub backup_window_seconds: f64,
    /// How long WAL may wait before people are told.
    pub wal_lag_seconds: f64,
    /// How far the packages' replica, or the second copy, may be behind.
    pub replication_lag_seconds: f64,
    /// Which share of the repository's room, from 0 to 1, is a warning; of the disk of pg_wal too, unless much of it is free.
    pub capacity_warning: f64,
    /// Which share of it is critical.
    pub capacity_critical: f64,
}

/// What the repository says of itself, and what can be restored of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RepositoryFacts {
    /// Without secrets: `s3://bucket/prefix`, `file:///srv/backups`.
    pub address: String,
    /// Of the repository itself, as `repository.json` has it; a second copy has the same.
    pub id: String,
    /// When it was initialised; never later than the look.
    pub created: Timestamp,
    /// What is stored is sealed; chosen when the repository was made.
    pub is_encrypted: bool,
    /// Of the cluster that it follows now; absent before the first one.
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
    /// Absent without a backup of the present cluster on the way to its newest timeline.
    pub stored: Option<StoredFacts>,
    /// Absent until a drill has measured the rates, and without `stored`.
    pub restore: Option<EstimateFacts>,
    /// Newest first, without those that a clock stamped which was ahead.
    pub drills: Vec<DrillFacts>,
    /// What retention let go and a later run removes.
    pub expired: ExpiredFacts,
    /// What bears a time that is still to come, in words: nothing is judged by these until then. The first ten.
    #[serde(default)]
    pub ahead: Vec<String>,
    /// Documents that are damaged: all else is said as if they were not there.
    #[serde(default)]
    pub damaged: Vec<Trouble>,
}

impl RepositoryFacts {
    /// The newest backup of the present cluster; one that a clock stamped which was ahead only where there is no other.
    pub fn newest(&self) -> Option<&BackupFacts> {
        // Of several that are as good, the last.
        self.backups.iter().filter(|backup| backup.is_present).max_by_key(|backup| !backup.is_ahead)
    }

    /// Whether stored log that is damaged, or missing, was found behind the start of every backup, and no backup has begun since: nothing later
    /// can be restored until one does. Where the last one began is known, and not what the next audit will say of it.
    pub fn is_cut_off(&self) -> bool {
        let has_begun_since = self.newest().zip(self.audited).is_none_or(|(newest, audited)| newest.began > audited && !newest.is_ahead);
        !has_begun_since && self.gaps.iter().any(|gap| gap.is_last)
    }
}

/// One cluster, from an initdb or upgrade to the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochFacts {
    /// PostgreSQL's system identifier, which initdb makes.
    pub system_id: SystemId,
    /// PostgreSQL's major version.
    pub major: u32,
    /// By the clock of the host that began it.
    pub since: Timestamp,
    /// The repository follows this one: the last of the list.
    pub is_present: bool,
    /// Listed backups of this cluster.
    pub backups: u64,
    /// Older backups that retention keeps for their own end alone.
    pub backups_alone: u64,
    /// The end of its oldest backup after which every instant is kept; absent without one.
    pub restorable_from: Option<Timestamp>,
    /// The position of that end.
    pub restorable_from_lsn: Option<Lsn>,
    /// By this cluster's coverage mark; absent until the first.
    pub covered_until: Option<Timestamp>,
    /// The mark's position: everything before it is stored.
    pub covered_until_lsn: Option<Lsn>,
}

/// One listed backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// Its name, made of the time at which it began.
    pub id: BackupId,
    /// When it began, and when it was consistent: no earlier instant can be reached from it.
    pub began: Timestamp,
    /// When it was consistent, by the server's clock.
    pub at: Timestamp,
    /// Bytes of the database.
    pub bytes: u64,
    /// Bytes that it takes in the repository, manifest included.
    pub bytes_stored: u64,
    /// From its beginning until it was listed.
    pub took_seconds: f64,
    /// Pages whose checksum did not match and that replay would not repair; 0 too where none were verified.
    pub pages_damaged: u64,
    /// PostgreSQL's version in full, as the server says it.
    pub server_version: String,
    /// Of the cluster that the repository follows now.
    pub is_present: bool,
    /// Its times are still to come: a clock was wrong when it was made.
    #[serde(default)]
    pub is_ahead: bool,
    /// Every instant after it can be restored, not only its own end.
    pub reaches_on: bool,
    /// Retention keeps it as the backup of a day.
    pub is_daily: bool,
    /// Retention keeps it as the backup of a month.
    pub is_monthly: bool,
    /// Why retention keeps it, in words.
    pub kept: Vec<String>,
    /// Why somebody wants it kept, in their words; absent where nobody does.
    pub held: Option<String>,
    /// Its newest drill that ended in a verdict.
    pub drilled: Option<Drilled>,
}

/// What a drill said of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// When that drill began.
    pub at: Timestamp,
    /// False: it failed. One that could not look at everything is no verdict.
    pub passed: bool,
}

/// From the first instant that can be restored to the last one that is proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// When `backup` was consistent, by the server's clock.
    pub from: Timestamp,
    /// Where `backup` ends.
    pub from_lsn: Lsn,
    /// The oldest that reaches on; where none does, the oldest of the present cluster.
    pub backup: BackupId,
    /// By the coverage mark: then the server had promised nobody anything beyond. Absent until the first mark.
    pub until: Option<Timestamp>,
    /// The mark's position: everything before it is stored.
    pub until_lsn: Option<Lsn>,
}

/// Instants that cannot be restored: from `from` on, that one included, to `until`, which can be again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GapFacts {
    /// Absent: everything until then, since no backup serves what lies before; or nobody can tell.
    pub from: Option<Timestamp>,
    /// Absent: everything from then on, since no backup serves what follows; or nobody can tell.
    pub until: Option<Timestamp>,
    /// Which segments, and what is wrong with them, in words.
    pub what: String,
    /// On the way to the newest instants, and no backup served what follows when that was found.
    #[serde(default)]
    pub is_last: bool,
}

/// Where the stored log ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredFacts {
    /// Everything before it is stored.
    pub lsn: Lsn,
    /// The newest of which anything is stored.
    pub timeline: Timeline,
    /// The latest end of a transaction in its last segment, by the server's clock; absent when it holds none.
    pub last_transaction: Option<Timestamp>,
    /// A segment that is missing although more was stored once.
    pub hole: Option<String>,
    /// Whole segments in the repository, of all timelines of the cluster.
    pub segments: u64,
}

/// How long a restore of the newest backup and all WAL since would take, by the rates of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstimateFacts {
    /// All of it, the server's start included.
    pub seconds: f64,
    /// To write the files, at the drill's bytes a second.
    pub files_seconds: f64,
    /// To replay the log, at the drill's segments a second; never less than the drill took.
    pub replay_seconds: f64,
    /// When the drill was that it is by.
    pub by: Timestamp,
}

/// One drill, by its report in the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillFacts {
    /// When it began.
    pub at: Timestamp,
    /// `passed`, `failed` or `not-verified`.
    pub outcome: String,
    /// Absent when it ended before it had found one to restore from.
    pub backup: Option<BackupId>,
    /// What it restored to, as the command takes it: `latest`, a time, an LSN.
    pub target: String,
    /// All phases together.
    pub seconds: f64,
    /// In the order in which they ran.
    pub phases: Vec<PhaseFacts>,
    /// Databases that one can connect to, those included that then could not be asked.
    pub databases: u64,
    /// Tables that were read in full, of all databases.
    pub tables: u64,
    /// Rows of these tables.
    pub rows: u64,
    /// Questions of the configuration that were asked, whatever the answer.
    pub checks: u64,
    /// What was wrong or could not be looked at, in words; the first ten.
    pub faults: Vec<String>,
}

/// One part of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseFacts {
    /// Such as `plan`, `restore files`, `replay WAL`, `check`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// Backups that are unlisted and wait for their grace to pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExpiredFacts {
    /// Full backups; snapshots of packages are not counted.
    pub backups: u64,
    /// What they take in the repository.
    pub bytes: u64,
    /// When the oldest of them was unlisted.
    pub since: Option<Timestamp>,
}

/// What PostgreSQL says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerFacts {
    /// In full, such as `15.19 (Debian 15.19-1)`.
    pub version: String,
    /// As the server says it, be it ours or not.
    pub system_id: SystemId,
    /// It is the cluster that the repository follows; absent where the repository could not be looked at.
    pub is_ours: Option<bool>,
    /// It is a standby, or still recovers.
    pub in_recovery: bool,
    /// How far its clock is ahead of this host's, at least; negative where it is behind.
    #[serde(default)]
    pub clock_ahead_seconds: f64,
    /// How far it has written, of a standby how far it has replayed.
    pub lsn: Lsn,
    /// WAL that is not stored yet; across timelines since the server's history left the stored one. Absent while nothing is stored, and where
    /// the stored timeline says nothing of this server's log.
    pub wal_lag_bytes: Option<u64>,
    /// For how long commits are exposed: since the newest stored transaction or the coverage mark, the later; 0 while no WAL waits.
    pub wal_lag_seconds: Option<f64>,
    /// By the configuration, not as the server has it: `wal.synchronous`.
    pub is_synchronous: bool,
    /// Commits that waited for a synchronous standby all the while that they were looked at, some seconds; 0 where nobody looked: who supervises
    /// the receiver, and in asynchronous mode.
    #[serde(default)]
    pub commits_waiting: u64,
    /// What its `archive_command` handed over last is stored here, and no receiver can have stored it. Absent where there is a slot, and where
    /// nobody can tell.
    #[serde(default)]
    pub is_archived: Option<bool>,
    /// The slot that the configuration names.
    pub slot: SlotFacts,
    /// Of the slot and of synchronous commit: what is not well.
    pub findings: Vec<FindingFacts>,
}

/// The replication slot, by pg_replication_slots and what surrounds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotFacts {
    /// By the configuration, whether there is one or not.
    pub name: String,
    /// False: the server has no slot of this name.
    pub exists: bool,
    /// Somebody streams from it.
    pub active: bool,
    /// As pg_replication_slots has it: `reserved`, `extended`, `unreserved` or `lost`; absent without a slot and before its first use.
    pub wal_status: Option<String>,
    /// WAL from the oldest that it holds to what is durable; absent while it holds none.
    pub held_bytes: Option<u64>,
    /// How much may still be written before it may lose WAL; absent without a limit, when lost, and when the limit is passed.
    pub safe_wal_bytes: Option<u64>,
    /// Of all files in pg_wal; absent where the role may not list them.
    pub wal_dir_bytes: Option<u64>,
    /// The average since pg_stat_wal was reset; absent within a minute of that, and while nothing was written.
    pub wal_bytes_per_second: Option<f64>,
}

/// One thing that is not well with the slot or with synchronous commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingFacts {
    /// A stable word to alert on, such as `slot-lost`: the subject of the alarm.
    pub slug: String,
    /// `unknown`, `warn` or `critical`.
    pub severity: String,
    /// What is so, in one sentence without its point.
    pub what: String,
    /// Why, or what follows from it; empty when `what` says it all.
    pub cause: String,
    /// What to do, with the commands; empty when nothing needs to be done.
    pub remedy: String,
}

/// One who opens the data keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientFacts {
    /// Its kind and a name, never a secret: `file:9f86d081884c7d65`.
    pub name: String,
    /// Absent: it opens, or cannot be asked here by its nature.
    pub trouble: Option<Trouble>,
}

/// How far the second copy of the repository is behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyFacts {
    /// Of the copy, without secrets.
    pub address: String,
    /// Between the coverage marks of the two; absent where either has none.
    pub lag_seconds: Option<f64>,
    /// Listed in the repository itself.
    pub backups: u64,
    /// Of these, not listed in the copy, however young.
    pub backups_missing: u64,
    /// The lag is too long, a backup that ended over an hour ago is missing, or only the repository has a coverage mark.
    pub is_late: bool,
}

/// How full the repository is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacityFacts {
    /// `quota` (by configuration) or `disk`.
    pub kind: String,
    /// By the last measurement of a quota; of a disk all that is used on it now, by whomever.
    pub used_bytes: u64,
    /// The quota, or the disk's size without what is kept for root.
    pub limit_bytes: u64,
    /// By the measured days; absent until two are measured.
    pub growth_bytes_per_day: Option<f64>,
    /// Until the limit at that growth; absent while it is not known to grow.
    pub days_to_full: Option<f64>,
    /// What a removal leaves in the bucket, by the last run of expiry; absent where it frees at once, or where that cannot be asked.
    #[serde(default)]
    pub old_versions: Option<OldVersions>,
    /// Day by day, oldest first.
    pub history: Vec<Sample>,
}

/// One value of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was measured.
    pub at: Timestamp,
    /// Bytes or seconds: what the list that holds it says.
    pub value: f64,
}

/// Room on the file system of one directory, as `df` counts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// `pg_wal` or `drill`.
    pub name: String,
    /// The directory that is meant; where it does not exist its nearest parent was measured.
    pub path: String,
    /// What others than root may still write.
    pub free_bytes: u64,
    /// Used and free, without what is kept for root.
    pub total_bytes: u64,
    /// What is needed there, as far as known.
    pub needed_bytes: Option<u64>,
}

/// A job of the schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobFacts {
    /// `backup`, `drill`, `expire`, `scrub`, `audit`, `check`, and `packages` where Bowline takes snapshots of them.
    pub name: String,
    /// The expression as it is configured, such as `0 2 * * *`.
    pub schedule: String,
    /// Whose wall clock the expression means.
    pub zone: String,
    /// The first time after this look; absent where it never comes.
    pub next: Option<Timestamp>,
    /// It should have succeeded by now; since when.
    pub overdue_since: Option<Timestamp>,
    /// Under way, by this daemon.
    pub running: Option<RunningFacts>,
    /// The newest runs that the ledger knows, newest first: what decides when it begins again.
    pub past: Vec<PastRun>,
    /// The newest that is over, or broke off without a word; one that runs or was refused is none.
    pub last: Option<RunFacts>,
    /// The newest that ended `ok`; absent where none did of the newest runs, which alone are read.
    pub last_success: Option<RunFacts>,
    /// The newest that found what it was to find, good or bad: of drill, scrub, audit and check, among the newest runs.
    #[serde(default)]
    pub last_verdict: Option<RunFacts>,
}

/// As much of a run as decides when its job begins again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastRun {
    /// Its name in the ledger.
    pub run: String,
    /// By the clock of the host that ran it.
    pub began: Timestamp,
    /// Absent while it runs, and when it broke off without a word.
    pub ended: Option<Timestamp>,
    /// It needs no other try: it succeeded, or found what it was to find.
    pub is_settled: bool,
}

/// A run that is under way, by what its command has said so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningFacts {
    /// Its name in the ledger; the job's until the command has said it.
    pub run: String,
    /// When the daemon started the command.
    pub began: Timestamp,
    /// By the command's last `progress`; absent until the first.
    pub bytes_done: Option<u64>,
    /// In all, as far as the command knows by then; 0 where it does not.
    pub bytes_total: Option<u64>,
    /// By the rate so far.
    pub expected_seconds: Option<f64>,
}

/// One run of the ledger, without its log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunFacts {
    /// Its name, such as `20261122T020000Z-backup`.
    pub run: String,
    /// Which of the schedule's, such as `backup`.
    pub job: String,
    /// By the clock of the host that ran it.
    pub began: Timestamp,
    /// Absent while it runs, and when it broke off without a word.
    pub ended: Option<Timestamp>,
    /// `running`, `ok`, `failed`, `refused` (another one was under way) or `broken-off`.
    pub outcome: String,
    /// Of the error that ended it; absent where there was none.
    pub slug: Option<String>,
    /// What could not be done, in one line.
    pub summary: Option<String>,
    /// The next step; absent where there is none.
    pub hint: Option<String>,
    /// `bytes` of the command's result, where it has them.
    pub bytes: Option<u64>,
    /// Host and process, for people.
    pub by: String,
    /// What the command printed as its result, in short.
    pub result: Option<Value>,
}

/// The receiver, by what its command says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceiverFacts {
    /// `streaming`, `waiting` (another one receives), `disconnected` or `down`.
    pub state: String,
    /// When it came into this state; absent before it was started once.
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

/// What was proven in the last scrub, and all damage that stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubFacts {
    /// When the last one ended; absent before the first, or when the state cannot be read.
    pub last: Option<Timestamp>,
    /// Objects that the last one read.
    pub objects: u64,
    /// Bytes of these, as they are stored.
    pub bytes: u64,
    /// When the object that waited longest was verified.
    pub oldest_verified: Option<Timestamp>,
    /// Damaged or missing objects, in words.
    pub damage: Vec<String>,
}

/// The application's bucket or folder and its second copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PackagesFacts {
    /// `native` (the store copies) or `managed` (Bowline takes snapshots).
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
    /// Versions of the primary that the copy lacks; of a snapshot, objects.
    pub behind: u64,
    /// Of these, what the store says that it gave up.
    pub failed: u64,
    /// Keys that are there now, in the primary, by the newest listing.
    pub objects: u64,
    /// Their bytes.
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
