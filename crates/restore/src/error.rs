//! Why a restore was not begun, or did not end where it should.

use crate::loss::size;
use pg::{DiskError, InstanceError};
use repo::RepoError;
use seal::SealError;
use std::path::PathBuf;
use terms::{BackupId, Class, Explain, Lsn, SegmentName, SystemId, Timeline};

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum RestoreError {
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A chunk did not open.
    #[error("cannot restore {file}, {blocks}")]
    Chunk { file: String, blocks: String, backup: BackupId, pack: String, source: SealError },
    /// An object of a backup is missing or damaged.
    #[error("{source}")]
    Backup { backup: BackupId, source: RepoError },
    /// Bytes of the cluster that do not parse.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The server did not run.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// There is nothing to restore from.
    #[error("there is no backup in {address}")]
    NoBackup { address: String },
    /// A backup that was asked for is not listed.
    #[error("there is no backup {backup} in {address}")]
    UnknownBackup { backup: BackupId, address: String },
    /// The target lies outside what is stored.
    #[error("cannot restore to {target}")]
    Unreachable { target: String, why: String, window: String },
    /// WAL is missing in the middle. `promised`: the beginning of that segment is there, and the log was stored up to here once.
    #[error("cannot restore to {target}: WAL is missing")]
    Hole { target: String, missing: SegmentName, reachable: Lsn, promised: Option<Lsn> },
    /// WAL is stored and makes no sense from a position on.
    #[error("cannot restore to {target}: WAL is damaged")]
    Cut { target: String, at: Lsn, segment: SegmentName, promised: Lsn },
    /// A segment could not be had while the server replayed: the server ended, and was not promoted.
    #[error("cannot restore to {target}: WAL segment {segment} {}", if *class == Class::Missing { "is missing" } else { "is damaged" })]
    Broken { target: String, segment: SegmentName, why: String, class: Class },
    /// The log creates a tablespace where this restore may not write.
    #[error("the log creates tablespace {oid} in {location:?} at {at}, where this restore may not put it")]
    TablespaceCreated { oid: u32, location: PathBuf, at: Lsn },
    /// A segment is that of another cluster.
    #[error("WAL segment {segment} belongs to another cluster")]
    Foreign { segment: SegmentName, wanted: SystemId, found: SystemId },
    /// A timeline's history cannot be read, so that nobody knows the way to it.
    #[error("the history of timeline {timeline} {}", if *class == Class::Missing { "is missing" } else { "is damaged" })]
    History { timeline: Timeline, why: String, class: Class },
    /// The instant exists on several timelines.
    #[error("{target} lies on several timelines")]
    Ambiguous { target: String, why: String, timelines: Vec<Timeline> },
    /// A restore point's name stands for several places.
    #[error("restore point {name} was given several times")]
    SeveralPoints { name: String, places: Vec<String> },
    /// The target exists in several epochs.
    #[error("{target} lies in several epochs")]
    SeveralEpochs { target: String, why: String },
    /// Where to restore to cannot be used.
    #[error("cannot restore into {}", path.display())]
    Target { path: PathBuf, why: String, hint: String },
    /// A disk is too small for what is to go there.
    #[error("there is no room for the restore in {}", at.display())]
    NoRoom { at: PathBuf, needed: u64, free: u64, kept: Option<PathBuf> },
    /// This host lacks what the restored server does not start without.
    #[error("this host lacks {}", what.join(", "))]
    Lacking { what: Vec<String>, why: String, hint: String },
    /// A pack of the backup is missing or too short.
    #[error("backup {backup} is not whole: {pack}")]
    Pack { backup: BackupId, pack: String, why: String },
    /// A segment opens and holds other bytes than once were indexed.
    #[error("cannot restore to {target}: segment {segment} is not the one that was stored")]
    Altered { segment: SegmentName, target: String },
    /// A file of the target.
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// A restore that overwrites the old copy ended in the middle of it.
    #[error("{source}")]
    HalfRewritten { path: PathBuf, source: Box<RestoreError> },
    /// Recovery stopped before what was promised.
    #[error("recovery ended early at {reached}")]
    Early { reached: Lsn, promised: Lsn },
    /// The manifest names a path that no writer makes.
    #[error("the manifest names a path outside the data directory: {path:?}")]
    Path { path: String },
    /// A WAL file was asked for whose absence is not proven.
    #[error("cannot fetch {name}")]
    Fetch { name: String, why: String },
    /// A timeline's history was asked for in search of the newest and is missing, while these timelines, from that one on, are stored.
    #[error("cannot fetch {name}: a timeline that it hides is stored")]
    Skipped { name: String, stored: Vec<Timeline> },
    /// A mistake in Bowline.
    #[error("internal error: {0}")]
    Bug(String),
}

impl RestoreError {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

impl RestoreError {
    /// Says of which backup an object is that cannot be had for good.
    pub(crate) fn of_backup(backup: BackupId) -> impl Fn(RepoError) -> Self {
        move |source| match source.class() {
            Class::Damaged | Class::Missing => Self::Backup { backup, source },
            _ => Self::Repo(source),
        }
    }
}

fn is_full(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl Explain for RestoreError {
    fn slug(&self) -> &'static str {
        match self {
            Self::Repo(e) | Self::Backup { source: e, .. } => e.slug(),
            Self::Chunk { .. } => "backup-damaged",
            Self::Disk(e) => e.slug(),
            Self::Instance(e) => e.slug(),
            Self::NoBackup { .. } | Self::UnknownBackup { .. } => "backup-missing",
            Self::Unreachable { .. } => "target-unreachable",
            Self::Hole { .. } | Self::Broken { class: Class::Missing, .. } | Self::History { class: Class::Missing, .. } => "wal-missing",
            Self::Broken { .. } | Self::History { .. } => "wal-damaged",
            Self::Foreign { .. } => "wal-foreign",
            Self::Ambiguous { .. } | Self::SeveralPoints { .. } => "timeline-ambiguous",
            Self::SeveralEpochs { .. } => "epoch-ambiguous",
            Self::Target { .. } => "target-unusable",
            Self::TablespaceCreated { .. } => "tablespace-created",
            Self::NoRoom { .. } => "disk-too-small",
            Self::Lacking { .. } => "host-lacks",
            Self::Pack { .. } => "backup-damaged",
            Self::Altered { .. } => "wal-damaged",
            Self::File { source, .. } if is_full(source) => "disk-full",
            Self::File { .. } => "target-unwritable",
            Self::Cut { .. } => "wal-damaged",
            Self::Early { .. } => "recovery-early",
            Self::Path { .. } => "repository-damaged",
            Self::Fetch { .. } => "wal-fetch",
            Self::Skipped { .. } => "timeline-skipped",
            Self::HalfRewritten { source, .. } => source.slug(),
            Self::Bug(_) => "bug",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Repo(e) | Self::Backup { source: e, .. } => e.class(),
            Self::Disk(e) => e.class(),
            Self::Instance(e) => e.class(),
            Self::NoRoom { .. } | Self::Lacking { .. } | Self::TablespaceCreated { .. } => Class::Refused,
            Self::Pack { .. } | Self::Altered { .. } | Self::Foreign { .. } => Class::Damaged,
            Self::Chunk { .. } | Self::Path { .. } | Self::Early { .. } | Self::Cut { .. } => Class::Damaged,
            Self::NoBackup { .. } | Self::UnknownBackup { .. } | Self::Unreachable { .. } | Self::Hole { .. } => Class::Missing,
            Self::Skipped { .. } => Class::Missing,
            Self::Broken { class, .. } | Self::History { class, .. } => *class,
            Self::Ambiguous { .. } | Self::SeveralPoints { .. } | Self::SeveralEpochs { .. } | Self::Target { .. } | Self::File { .. } => {
                Class::Refused
            }
            Self::HalfRewritten { source, .. } => source.class(),
            Self::Fetch { .. } => Class::Transient,
            Self::Bug(_) => Class::Bug,
        }
    }
    fn detail(&self) -> String {
        match self {
            Self::Repo(e) | Self::Backup { source: e, .. } => e.detail(),
            Self::Disk(e) => e.detail(),
            Self::Instance(e) => e.detail(),
            Self::Chunk { backup, pack, source, .. } => format!("Backup {backup}, {pack}: {source}."),
            Self::NoRoom { needed, free, .. } => format!(
                "{} bytes ({}) are missing: {} are needed there beside what lies there now, and {} are free. Nothing was touched.",
                needed.saturating_sub(*free),
                size(needed.saturating_sub(*free)),
                size(*needed),
                size(*free)
            ),
            Self::Lacking { why, .. } => format!("{why} Nothing was touched."),
            Self::Pack { why, .. } => format!("{why}. Nothing was touched."),
            Self::Altered { .. } => "It opens, but its bytes are not those that the index has the digest of. Nothing was touched.".into(),
            Self::Unreachable { why, window, .. } => format!("{why} {window}").trim().to_owned(),
            Self::Hole { missing, reachable, promised: Some(promised), .. } => {
                format!(
                    "Of segment {missing} only what lies before {reachable} is in the repository, although the log was stored up to {promised} once."
                )
            }
            Self::Hole { missing, reachable, .. } => {
                format!("Segment {missing} is not in the repository although later ones are. WAL is whole up to {reachable}.")
            }
            Self::Ambiguous { why, .. } | Self::SeveralEpochs { why, .. } | Self::Target { why, .. } | Self::Fetch { why, .. } => why.clone(),
            Self::Skipped { stored, .. } => {
                let ids: Vec<String> = stored.iter().map(ToString::to_string).collect();
                let (word, are) = if ids.len() == 1 { ("timeline", "is") } else { ("timelines", "are") };
                format!(
                    "It is not in the repository, but {word} {} {are}. A server that looks for the newest timeline takes the first history that is missing for the end of them: it would be promoted without what was committed there.",
                    ids.join(", ")
                )
            }
            Self::HalfRewritten { path, source } => {
                let half = format!("What was in {} is overwritten in part, and no server can start there.", path.display());
                format!("{} {half}", source.detail()).trim().to_owned()
            }
            Self::Foreign { wanted, found, .. } => format!("Its pages are of the cluster with system identifier {found}, not of {wanted}."),
            Self::History { why, .. } => format!("{why} Nothing was touched."),
            Self::TablespaceCreated { .. } => {
                "PostgreSQL replays its creation at that very place, which may be a running server's: a restore beside production writes nothing \
                 outside its own place. The server that replayed the log was stopped before."
                    .into()
            }
            Self::Broken { why, .. } => format!("{why} The server that replayed the log was stopped, and was not promoted."),
            Self::SeveralPoints { places, .. } => format!("The name was given {} times: {}.", places.len(), places.join(", ")),
            Self::File { source, .. } => format!("{source}."),
            Self::Cut { at, segment, promised, .. } => {
                format!("The stored WAL is valid up to {at} only, in segment {segment}, but the server had come to {promised}.")
            }
            Self::Early { promised, .. } => {
                format!("The repository holds valid WAL up to {promised}. The restored server was stopped; it is not what was asked for.")
            }
            _ => String::new(),
        }
    }
    fn hint(&self) -> String {
        match self {
            Self::Repo(e) | Self::Backup { source: e, .. } => e.hint(),
            Self::Disk(e) => e.hint(),
            Self::Instance(e) => e.hint(),
            Self::NoRoom { kept, .. } => {
                let kept = kept.as_ref().map_or_else(String::new, |path| {
                    format!(" What is in {} now stays and takes its room; move it to another disk yourself if that is enough.", path.display())
                });
                format!("Make room there, or restore to another disk: --target DIR, --tablespace OID=DIR.{kept}")
            }
            Self::Lacking { hint, .. } => hint.clone(),
            Self::Altered { .. } => "Somebody replaced it: do not trust it; restore to what lies before it, or from a copy of the bucket.".into(),
            Self::Chunk { .. } | Self::Pack { .. } => "Restore from another backup: bowline list, then --backup ID.".into(),
            Self::NoBackup { .. } => "Check [repository] url and org; bowline backup makes the first backup.".into(),
            Self::UnknownBackup { .. } => "bowline list shows what there is.".into(),
            Self::Unreachable { .. } => "Choose an instant inside the window; nothing was touched.".into(),
            Self::Hole { reachable, .. } => {
                format!("Look for the segment on the server, a standby or a copy of the bucket; or restore to --to {reachable}. Nothing was touched.")
            }
            Self::Ambiguous { timelines, .. } => {
                let choices: Vec<String> = timelines.iter().map(|timeline| format!("--timeline {timeline}")).collect();
                format!("Say which one is meant: {}; nothing was touched.", choices.join(" or "))
            }
            Self::SeveralPoints { .. } => "Use one of these positions with --to; nothing was touched.".into(),
            Self::SeveralEpochs { .. } => "Say which one is meant with --backup ID of one of that epoch (bowline list); nothing was touched.".into(),
            Self::Target { hint, .. } => hint.clone(),
            Self::TablespaceCreated { at, .. } => {
                format!(
                    "A backup made after {at} has it beside the target: choose one with --backup, or make one now (bowline backup). Or restore to what lies before {at}."
                )
            }
            Self::HalfRewritten { source, .. } => {
                let before = match &**source {
                    Self::File { source, .. } if is_full(source) => "Make room.".into(),
                    other => other.hint(),
                };
                format!("{before} Run the restore with --delta again: it goes on where this one ended.").trim().to_owned()
            }
            Self::File { source, .. } if is_full(source) => "Make room and run the restore again; what was there before is untouched.".into(),
            Self::File { .. } => "Run as the user that owns the target, or as root.".into(),
            Self::Cut { at, .. } => {
                format!("Restore to what lies before the damage, --to {at}, or to an instant after a later backup; bowline wal audit names both.")
            }
            Self::Broken { .. } | Self::History { .. } | Self::Foreign { .. } => {
                "Look for it on the server, a standby or a copy of the bucket.".into()
            }
            Self::Early { .. } => "Look at the server's log beside the target, and run the restore again.".into(),
            Self::Path { .. } => "Do not trust this repository; restore from a copy of the bucket.".into(),
            Self::Fetch { .. } => "The server will be told that this failed, not that the file does not exist.".into(),
            Self::Skipped { stored, .. } => format!(
                "If a server still has it in pg_wal, store it with bowline wal push. Otherwise append recovery_target_timeline = '{}', or the one that is meant, to postgresql.auto.conf in the data directory and start the server again; or restore with bowline restore.",
                stored.last().map_or_else(String::new, ToString::to_string)
            ),
            Self::Bug(_) => String::new(),
        }
    }
}
