//! Facts in domain words. Bar, JSON lines, report and later alerts are readers that fold them; the core prints nothing.

use crate::{BackupId, Lsn, RecoveryTarget, SegmentName, Timeline, Timestamp};
use std::path::PathBuf;
use std::time::Duration;

/// One thing that happened. Facts are lossless; [`Event::Progress`] is latest-wins.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A backup began: its name, where its WAL begins, and how its files are read.
    BackupBegun {
        /// Its name, made of the time at which it began.
        backup: BackupId,
        /// The redo position of its checkpoint: replay begins here.
        start: Lsn,
        /// The server's when it began.
        timeline: Timeline,
        /// `local` (the data directory is read) or `stream` (the server sends it).
        source: &'static str,
    },
    /// The files are copied; `stop` is where the backup's WAL ends.
    BackupCopied {
        /// As it was called when it began.
        backup: BackupId,
        /// No instant before this position can be reached from it.
        stop: Lsn,
        /// Those of the data directory and of configuration outside it.
        files: u64,
        /// Of these files, before compression.
        bytes: u64,
        /// What they take in the repository, manifest included.
        bytes_stored: u64,
        /// Since the backup began.
        took: Duration,
    },
    /// Waiting for the WAL that makes the backup whole, up to `stop`; `by` says who brings it.
    AwaitingWal {
        /// As it was called when it began.
        backup: BackupId,
        /// The position up to which all WAL must be stored.
        stop: Lsn,
        /// In words: this process, or the receiver on the configured slot.
        by: &'static str,
    },
    /// The backup is listed: from now on it can be restored.
    BackupPublished {
        /// As it was called when it began.
        backup: BackupId,
        /// Since the backup began.
        took: Duration,
    },
    /// A page whose checksum does not match, beyond what replay would repair.
    PageDamaged {
        /// As the manifest names it, relative to the data directory.
        file: String,
        /// Of the whole relation, not of this one of its files; a block has 8 KiB.
        block: u32,
        /// The position that the page bears, which the damage may have changed.
        lsn: Lsn,
    },
    /// A file kept out of the backup because it vanished while the backup ran.
    FileVanished {
        /// As the manifest names it, relative to the data directory.
        file: String,
    },
    /// A configuration file outside the data directory could not be read.
    ConfigUnreadable {
        /// By its absolute path.
        file: PathBuf,
        /// What the operating system said, or that it is too large.
        why: String,
    },

    /// The receiver is connected and streams from here.
    WalStreaming {
        /// Where the stream begins: at the beginning of a segment.
        from: Lsn,
        /// The one that is streamed.
        timeline: Timeline,
        /// The replication slot that holds the WAL on the server.
        slot: String,
    },
    /// A segment or history file is in the repository.
    WalStored {
        /// As PostgreSQL calls the file.
        name: String,
        /// What it takes in the repository.
        bytes_stored: u64,
    },
    /// A piece of a segment is in the repository.
    PieceStored {
        /// The one that it is part of.
        segment: SegmentName,
        /// Of its first byte.
        start: Lsn,
        /// Behind its last byte.
        end: Lsn,
        /// What it takes in the repository; of several told together, all.
        bytes_stored: u64,
    },
    /// The log is complete up to here, and at `time` by its clock the server had promised nobody anything beyond.
    WalCovered {
        /// The one that is received.
        timeline: Timeline,
        /// Everything before it is stored.
        lsn: Lsn,
        /// By the server's clock.
        time: Timestamp,
    },
    /// What was received waits for the store, up to here stored; in synchronous mode commits wait too.
    WalHeldUp {
        /// Everything before it is stored.
        stored: Lsn,
        /// Everything before it was received.
        received: Lsn,
        /// Since something was last stored, or since the first of it came.
        waited: Duration,
        /// Synchronous mode: the server keeps commits until their WAL is stored.
        commits_wait: bool,
    },
    /// It waits no longer.
    WalFlowsAgain {
        /// Everything before it is stored.
        stored: Lsn,
        /// In all, until something was stored again.
        waited: Duration,
    },
    /// The server no longer has the WAL between these positions, and neither has the repository: what lies between them and
    /// the next full backup cannot be restored.
    WalGap {
        /// The one that was received.
        timeline: Timeline,
        /// Where what is stored ends.
        from: Lsn,
        /// Where the server's WAL begins: streaming goes on here.
        to: Lsn,
        /// How the WAL was lost, in words.
        why: String,
    },
    /// WAL is stored past the point where the server's history left its timeline, with the times of the first and the last
    /// transaction in it: it was on a server that a failover left behind, and can be restored by naming the timeline. `unread`
    /// says why not all of it could be looked at: then there may be transactions that these times know nothing of.
    DivergentTail {
        /// The one that the server's history left.
        timeline: Timeline,
        /// Where it left it.
        from: Lsn,
        /// Where what is stored of it ends.
        to: Lsn,
        /// When the first and the last transaction in it ended, by the clock of the server that wrote it; `None`: none was seen.
        commits: Option<(Timestamp, Timestamp)>,
        /// `None`: all of it was looked at.
        unread: Option<String>,
    },
    /// The server counts the receiver as a synchronous standby although it is none.
    RankedSynchronous {
        /// As pg_stat_replication has it: `sync`, `quorum` or `potential`.
        sync_state: String,
    },
    /// The same bytes were there already.
    WalAlreadyStored {
        /// As PostgreSQL calls the file.
        name: String,
    },
    /// WAL was stored that PostgreSQL cannot replay beyond `at_lsn`: read twice, it made no sense twice.
    WalDamaged {
        /// The one that holds `at`.
        segment: SegmentName,
        /// The end of the last valid record.
        at: Lsn,
        /// What is wrong there, in words.
        reason: &'static str,
    },
    /// Another receiver acts; this one waits until it has not been heard of for long enough.
    WaitingForTurn {
        /// Its name in the lease.
        holder: String,
    },
    /// This receiver held the lease and has not been able to stream for so long: it lets another one begin, and stands in line again
    /// after a while.
    TurnPassedOn {
        /// Since it got the lease or last streamed.
        idle: Duration,
        /// How long it stays out of the line.
        again_in: Duration,
    },
    /// Another server has taken over, on a timeline that came out of this one's, while the server that is streamed from lives: both take
    /// writes. The receiver leaves the older one.
    ServerOvertaken {
        /// That of the server that is streamed from.
        timeline: Timeline,
        /// Where the one is that took over, without secrets.
        by: String,
        /// That of the one that took over.
        newer: Timeline,
    },
    /// The receiver follows the server to a new timeline.
    TimelineSwitched {
        /// The new one.
        to: Timeline,
        /// Where it begins: all before is stored.
        at: Lsn,
    },
    /// The server's connection was lost; another try follows.
    Disconnected {
        /// What ended it or kept it from beginning, in a line.
        why: String,
        /// The pause before the next try.
        again_in: Duration,
    },
    /// A put failed and is tried again; nothing was confirmed.
    StoreRetry {
        /// What was to be stored: a segment or a piece of one.
        object: String,
        /// What the store said, in a line.
        why: String,
        /// The pause before the next try.
        again_in: Duration,
    },

    /// A restore was planned.
    RestorePlanned {
        /// The one whose files are restored.
        backup: BackupId,
        /// The one that recovery follows.
        timeline: Timeline,
        /// What was asked for.
        target: RecoveryTarget,
        /// How many recovery may ask for.
        segments: u64,
    },
    /// A step of a restore or drill began.
    StepBegun {
        /// Which one.
        step: Step,
    },
    /// A step ended.
    StepEnded {
        /// Which one; it went well.
        step: Step,
        /// Since this step began.
        took: Duration,
    },
    /// What was in the way was moved aside, never deleted.
    MovedAside {
        /// Where it lay.
        from: PathBuf,
        /// Where it lies now: it was renamed, so on the same file system.
        to: PathBuf,
    },
    /// The server asked for a segment and got it.
    SegmentReplayed {
        /// The one that now lies where the server reads it.
        segment: SegmentName,
    },
    /// Something the reader should know that is not an error.
    Noticed {
        /// For people, in one line.
        what: String,
    },

    /// How far the present work is.
    Progress(SnapshotOfProgress),
}

/// The steps of a restore, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Decides what will be done; nothing is touched.
    Plan,
    /// Runs the command that stops the application.
    StopService,
    /// Stops PostgreSQL, by the configured command, its systemd unit or its own shutdown.
    StopServer,
    /// Stores what only the old pg_wal holds.
    Salvage,
    /// Makes room: what lies in the data directory is kept elsewhere.
    MoveAside,
    /// Writes the backup's files.
    CopyFiles,
    /// Lets a private server replay WAL up to the target, and promotes it.
    Replay,
    /// Asks a private server whether the database is as it should be.
    Validate,
    /// Brings back the application's objects of the same instant.
    Packages,
    /// Starts PostgreSQL on what was restored.
    StartServer,
    /// Sees to it that WAL is received again.
    Receive,
    /// Starts the application, and waits until its health command says so.
    StartService,
    /// Takes a full backup of the new cluster.
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
    /// Files or objects done; 0 where nobody counts them.
    pub files_done: u64,
    /// Files or objects in all; 0 where nobody counts them.
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
