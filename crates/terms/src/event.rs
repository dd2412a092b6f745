//! Facts in domain words. Bar, JSON lines, report and later alerts are readers that fold them; the core prints nothing.

use crate::{BackupId, Lsn, RecoveryTarget, SegmentName, Timeline, Timestamp};
use std::path::PathBuf;
use std::time::Duration;

/// One thing that happened. Facts are lossless; [`Event::Progress`] is latest-wins.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A backup began: its name, where its WAL begins, and how its files are read.
    BackupBegun { backup: BackupId, start: Lsn, timeline: Timeline, source: &'static str },
    /// The files are copied; `stop` is where the backup's WAL ends.
    BackupCopied { backup: BackupId, stop: Lsn, files: u64, bytes: u64, bytes_stored: u64, took: Duration },
    /// Waiting for the WAL that makes the backup whole, up to `stop`; `by` says who brings it.
    AwaitingWal { backup: BackupId, stop: Lsn, by: &'static str },
    /// The backup is listed: from now on it can be restored.
    BackupPublished { backup: BackupId, took: Duration },
    /// A page whose checksum does not match, beyond what replay would repair.
    PageDamaged { file: String, block: u32, lsn: Lsn },
    /// A file kept out of the backup because it vanished while the backup ran.
    FileVanished { file: String },
    /// A configuration file outside the data directory could not be read.
    ConfigUnreadable { file: PathBuf, why: String },

    /// The receiver is connected and streams from here.
    WalStreaming { from: Lsn, timeline: Timeline, slot: String },
    /// A segment or history file is in the repository.
    WalStored { name: String, bytes_stored: u64 },
    /// A piece of a segment is in the repository.
    PieceStored { segment: SegmentName, start: Lsn, end: Lsn, bytes_stored: u64 },
    /// The log is complete up to here, and at `time` by its clock the server had promised nobody anything beyond.
    WalCovered { timeline: Timeline, lsn: Lsn, time: Timestamp },
    /// What was received waits for the store, up to here stored; in synchronous mode commits wait too.
    WalHeldUp { stored: Lsn, received: Lsn, waited: Duration, commits_wait: bool },
    /// It waits no longer.
    WalFlowsAgain { stored: Lsn, waited: Duration },
    /// The server no longer has the WAL between these positions, and neither has the repository: what lies between them and
    /// the next full backup cannot be restored.
    WalGap { timeline: Timeline, from: Lsn, to: Lsn, why: String },
    /// WAL is stored past the point where the server's history left its timeline, with the times of the first and the last
    /// transaction in it: it was on a server that a failover left behind, and can be restored by naming the timeline. `unread`
    /// says why not all of it could be looked at: then there may be transactions that these times know nothing of.
    DivergentTail { timeline: Timeline, from: Lsn, to: Lsn, commits: Option<(Timestamp, Timestamp)>, unread: Option<String> },
    /// The server counts the receiver as a synchronous standby although it is none.
    RankedSynchronous { sync_state: String },
    /// The same bytes were there already.
    WalAlreadyStored { name: String },
    /// WAL was stored that PostgreSQL cannot replay beyond `at`: read twice, it made no sense twice.
    WalDamaged { segment: SegmentName, at: Lsn, reason: &'static str },
    /// Another receiver acts; this one waits until it has not been heard of for long enough.
    WaitingForTurn { holder: String },
    /// This receiver held the lease and has not been able to stream for so long: it lets another one begin, and stands in line again
    /// after a while.
    TurnPassedOn { idle: Duration, again_in: Duration },
    /// The receiver follows the server to a new timeline.
    TimelineSwitched { to: Timeline, at: Lsn },
    /// The server's connection was lost; another try follows.
    Disconnected { why: String, again_in: Duration },
    /// A put failed and is tried again; nothing was confirmed.
    StoreRetry { object: String, why: String, again_in: Duration },

    /// A restore was planned.
    RestorePlanned { backup: BackupId, timeline: Timeline, target: RecoveryTarget, segments: u64 },
    /// A step of a restore or drill began.
    StepBegun { step: Step },
    /// A step ended.
    StepEnded { step: Step, took: Duration },
    /// What was in the way was moved aside, never deleted.
    MovedAside { from: PathBuf, to: PathBuf },
    /// The server asked for a segment and got it.
    SegmentReplayed { segment: SegmentName },
    /// Something the reader should know that is not an error.
    Noticed { what: String },

    /// How far the present work is.
    Progress(SnapshotOfProgress),
}

/// The steps of a restore, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Plan,
    StopService,
    StopServer,
    Salvage,
    MoveAside,
    CopyFiles,
    Replay,
    Validate,
    Packages,
    StartServer,
    Receive,
    StartService,
    Backup,
}

impl Step {
    /// What is being done, as a report says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::StopService => "stop the service",
            Self::StopServer => "stop PostgreSQL",
            Self::Salvage => "save the old pg_wal",
            Self::MoveAside => "move the old data aside",
            Self::CopyFiles => "restore files",
            Self::Replay => "replay WAL",
            Self::Validate => "validate",
            Self::Packages => "restore packages",
            Self::StartServer => "start PostgreSQL",
            Self::Receive => "stream WAL again",
            Self::StartService => "start the service",
            Self::Backup => "back up",
        }
    }
}

/// How far some work is. `bytes_total` grows while it is still being counted; 0 for what nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotOfProgress {
    /// Bytes of the database done.
    pub bytes_done: u64,
    /// Bytes of the database in all, as far as known.
    pub bytes_total: u64,
    /// Files or objects done, and in all; 0 where nobody counts them.
    pub files_done: u64,
    pub files_total: u64,
    /// Bytes written to or read from the repository.
    pub bytes_stored: u64,
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Where events go. Implementations must be quick and must not fail.
pub trait Events: Send + Sync {
    /// Takes one event.
    fn tell(&self, event: Event);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn tell(&self, _: Event) {}
}
