//! What can go wrong between a live server and the repository.

use pg::PgError;
use repo::RepoError;
use seal::SealError;
use std::path::PathBuf;
use terms::{Class, Explain, Lsn, SystemId, Timeline};

/// Why a backup or an archive of WAL failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum CaptureError {
    /// The server.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A file of the cluster.
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// The directory named as data_dir is none.
    #[error("{} is not a PostgreSQL data directory", path.display())]
    NotADataDirectory { path: PathBuf, why: String },
    /// The directory belongs to another cluster than the server that was asked to begin the backup.
    #[error("{} is not the data directory of the server that [postgres] conninfo leads to", path.display())]
    OtherCluster { path: PathBuf, server: SystemId, directory: SystemId },
    /// The directory belongs to a server of the same cluster which did not make the checkpoint that a backup begins with.
    #[error("{} is not the data directory of the server that [postgres] conninfo leads to", path.display())]
    OtherServer { path: PathBuf, redo: Lsn, start: Lsn },
    /// Pages are damaged.
    #[error("{count} damaged page(s) found while backing up")]
    DamagedPages { count: u64, first: String },
    /// The server is a standby.
    #[error("the server is a standby")]
    Standby,
    /// The server would count our receiver as a synchronous standby.
    #[error("synchronous_standby_names = '{names}' would make commits wait for the repository")]
    WouldBeSynchronous { names: String },
    /// WAL was needed and does not come.
    #[error("the WAL that makes this backup whole does not arrive in the repository")]
    WalDoesNotArrive { wanted: String, stop: Lsn, waited_seconds: u64, why: String },
    /// A WAL file that is not what its name says.
    #[error("{} is not a good WAL file", path.display())]
    BadWal { path: PathBuf, why: String },
    /// The server's history went on without us.
    #[error("WAL from {from} on timeline {timeline} is no longer on the server")]
    WalGone { from: Lsn, timeline: u32, why: String },
    /// The server was left behind by a failover.
    #[error("the server is on timeline {found}, but WAL of timeline {stored} is stored already")]
    Demoted { found: Timeline, stored: Timeline },
    /// Another server took over while this one lives on.
    #[error("the server is on timeline {found}, but {by} has taken over on timeline {newer}")]
    Overtaken { found: Timeline, by: String, newer: Timeline },
    /// The server's history never was on the timeline that is stored.
    #[error("the server is on timeline {found}, whose history does not hold the stored timeline {stored}")]
    Stranger { found: Timeline, stored: Timeline },
    /// The server began or ceased to count us as a synchronous standby.
    #[error("{}", match sync_state { Some(state) => format!("the server ranks this receiver as a synchronous standby ({state})"), None => "the server no longer ranks this receiver as a synchronous standby".into() })]
    Ranked { sync_state: Option<String> },
    /// What arrived is no WAL.
    #[error("the WAL that arrived makes no sense from {at} on, timeline {timeline}")]
    Nonsense { at: Lsn, timeline: Timeline },
    /// Another receiver may act now.
    #[error("this receiver no longer holds the repository's lease")]
    TurnLost { why: String },
    /// The server does not answer.
    #[error("the server has given no sign of life for {seconds} s")]
    Silence { seconds: u64 },
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A mistake in Bowline.
    #[error("internal error: {0}")]
    Bug(String),
}

impl Explain for CaptureError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Pg(e) => e.slug(),
            Self::Repo(e) => e.slug(),
            Self::Seal(e) => e.slug(),
            Self::File { .. } => "data-dir-unreadable",
            Self::NotADataDirectory { .. } | Self::OtherServer { .. } => "data-dir-wrong",
            Self::OtherCluster { .. } => "system-id-foreign",
            Self::DamagedPages { .. } => "page-damaged",
            Self::Standby => "server-is-standby",
            Self::WouldBeSynchronous { .. } => "synchronous-by-accident",
            Self::WalDoesNotArrive { .. } => "wal-missing",
            Self::BadWal { .. } => "wal-bad",
            Self::WalGone { .. } => "wal-gone",
            Self::Demoted { .. } => "server-demoted",
            Self::Overtaken { .. } => "server-overtaken",
            Self::Stranger { .. } => "timeline-foreign",
            Self::Ranked { .. } => "ranked-synchronous",
            Self::Nonsense { .. } => "wal-nonsense",
            Self::TurnLost { .. } => "lease-lost",
            Self::Silence { .. } => "server-silent",
            Self::Interrupted => "interrupted",
            Self::Bug(_) => "bug",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Pg(e) => e.class(),
            Self::Repo(e) => e.class(),
            Self::Seal(e) => e.class(),
            Self::File { .. } | Self::Standby | Self::WouldBeSynchronous { .. } => Class::Refused,
            Self::NotADataDirectory { .. } | Self::OtherCluster { .. } | Self::OtherServer { .. } => Class::Misuse,
            Self::DamagedPages { .. } | Self::BadWal { .. } => Class::Damaged,
            Self::WalDoesNotArrive { .. } | Self::WalGone { .. } => Class::Missing,
            Self::Demoted { .. } | Self::Overtaken { .. } | Self::Stranger { .. } => Class::Refused,
            Self::Interrupted | Self::Ranked { .. } | Self::Nonsense { .. } | Self::TurnLost { .. } | Self::Silence { .. } => Class::Transient,
            Self::Bug(_) => Class::Bug,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Pg(e) => e.detail(),
            Self::Repo(e) => e.detail(),
            Self::Seal(e) => e.detail(),
            Self::File { source, .. } => format!("{source}."),
            Self::NotADataDirectory { why, .. } | Self::BadWal { why, .. } => format!("{why}."),
            Self::OtherCluster { server, directory, .. } => {
                format!("The server's system identifier is {server}, the directory's is {directory}.")
            }
            Self::OtherServer { redo, start, .. } => {
                format!("The backup begins with a checkpoint at {start}, and the newest that the directory knows is at {redo}.")
            }
            Self::DamagedPages { first, .. } => format!("The first one: {first}. The backup was not published; earlier backups are untouched."),
            Self::WalDoesNotArrive { wanted, stop, waited_seconds, why } => {
                format!("Segment {wanted} is needed up to {stop}; waited {waited_seconds} s. {why} The backup was not published.")
            }
            Self::WalGone { why, .. } | Self::TurnLost { why } => format!("{why}."),
            Self::WouldBeSynchronous { .. } => {
                "A '*' matches every connection that streams WAL, Bowline's too, and Bowline confirms whole segments only. Nothing was begun.".into()
            }
            Self::Demoted { .. } => {
                "It was the primary before a failover, perhaps, and its new commits would be on no other server. Nothing was received from it.".into()
            }
            Self::Overtaken { .. } => "Both take writes. What this one commits is on no other server, and is no longer received.".into(),
            Self::Nonsense { .. } => "It is read once more.".into(),
            Self::Stranger { .. } => "Both went on from an older server, each on its own. Nothing was received.".into(),
            Self::Ranked { sync_state: Some(_) } => {
                "wal.synchronous is off, so commits would wait for the flush interval. Nothing is reported to the server as flushed until that ends."
                    .into()
            }
            _ => String::new(),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Pg(e) => e.hint(),
            Self::Repo(e) => e.hint(),
            Self::Seal(e) => e.hint(),
            Self::File { .. } => {
                "Run as the user that owns the data directory (usually postgres), or leave data_dir out to back up over the replication protocol.".into()
            }
            Self::NotADataDirectory { .. } => "Set [postgres] data_dir to the directory that SHOW data_directory names, or leave it out.".into(),
            Self::OtherServer { .. } => {
                "Leave data_dir out to back up over the replication protocol, whichever host the primary is on; or make conninfo and data_dir name the same server.".into()
            }
            Self::OtherCluster { .. } => "Make [postgres] conninfo and data_dir name the same server.".into(),
            Self::DamagedPages { .. } => {
                "Find the relation with pg_filenode_relation, restore it from an earlier backup; to keep a backup of the damaged cluster all the same use --checksums warn.".into()
            }
            Self::WouldBeSynchronous { .. } => "Name the standbys instead of '*', such as 'FIRST 1 (standby1, standby2)', and reload the server.".into(),
            Self::Standby => "Backups from a standby are not supported yet: point [postgres] conninfo at the primary.".into(),
            Self::WalDoesNotArrive { .. } => "Look at the bowline wal receive (or archive_command) that should bring it, then run the backup again.".into(),
            Self::BadWal { .. } => "Nothing was stored. If the file's disk is sound, look at what wrote it.".into(),
            Self::Demoted { .. } => {
                "Let [postgres] conninfo name every server (host=a,b). If this one is right and the newer timeline was only tried out, run bowline wal receive --accept-older-timeline.".into()
            }
            Self::Overtaken { .. } => {
                "Stop the server that was left behind, or make it a standby. If it is the right one and the other was only tried out, stop that one, or run bowline wal receive --accept-older-timeline.".into()
            }
            Self::Stranger { .. } => {
                "Let [postgres] conninfo lead to the server that is in use. If it is this one and the stored timeline was only tried out, run bowline wal receive --accept-older-timeline; if both go on, make a repository of its own for one of them (another org or url).".into()
            }
            Self::Ranked { sync_state: Some(_) } => {
                "Name the standbys in synchronous_standby_names without bowline and without '*', or set wal.synchronous = true; then reload the server.".into()
            }
            Self::WalGone { .. } => "Take a full backup now: instants between the stored WAL and that backup cannot be reached.".into(),
            _ => String::new(),
        }
    }
}
