//! What expiry remembers between its runs: choices, holds, and what was unlisted and waits to be removed.

use crate::retention::WalKept;
use crate::{BackupDocument, Reader, RepoError, SnapshotDocument, Writer, document, layout};
use futures::TryStreamExt;
use seal::KeyId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use store::Version;
use terms::{BackupId, BackupKind, Month, SegmentName, SegmentSize, SystemId, Timestamp};

/// How often a document that others write at the same moment is read again.
const TRIES: u32 = 10;

/// `retention.json`: what one run of expiry leaves to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryState {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// When the last run was, by the earlier of its own clock and the store's.
    pub last_run: Timestamp,
    /// The backup that each month keeps.
    pub monthlies: BTreeMap<Month, BackupId>,
    /// Whether a backup ever expired. Until then no log goes: an archive that is older than its first backup is nobody's mistake.
    pub has_expired: bool,
    /// The log that an earlier run let go, waiting for its grace to pass.
    pub wal: Option<WalWaiting>,
    /// By folder: since when runs have found a manifest there, and neither a listing nor a tombstone. It never became a backup or a
    /// snapshot, or somebody removed its listing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unlisted_since: BTreeMap<String, Timestamp>,
}

impl ExpiryState {
    /// Before the first run.
    pub fn new(now: Timestamp) -> Self {
        Self { format: document::FORMAT, last_run: now, monthlies: BTreeMap::new(), has_expired: false, wal: None, unlisted_since: BTreeMap::new() }
    }

    /// Whether the log that this segment holds was let go by retention: its absence is no gap.
    pub fn lets_go(&self, system_id: SystemId, segment: SegmentName, size: SegmentSize) -> bool {
        let (timeline, from, to) = (segment.timeline(), segment.start(size), segment.end(size));
        self.kept_of(system_id).is_some_and(|mut kept| !kept.any(|kept| kept.covers(system_id, timeline, from, to)))
    }

    /// Whether every instant after this backup is still wanted, rather than the backup's own end alone.
    pub fn reaches_on_from(&self, backup: &BackupDocument) -> bool {
        self.kept_of(backup.system_id).is_none_or(|mut kept| kept.any(|kept| kept.reaches_on_from(backup)))
    }

    /// What is kept of this cluster's log, once anything was let go. A cluster that came later has lost nothing.
    fn kept_of(&self, system_id: SystemId) -> Option<impl Iterator<Item = &WalKept>> {
        let waiting = self.wal.as_ref().filter(|waiting| waiting.kept.iter().any(|kept| kept.system_id == system_id))?;
        Some(waiting.kept.iter().filter(move |kept| kept.system_id == system_id))
    }
}

/// Which log was kept when the grace began: everything else may go when it has passed, if it is not kept then either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalWaiting {
    /// By the store's clock.
    pub since: Timestamp,
    /// By the plan of that run; the stretches may overlap.
    pub kept: Vec<WalKept>,
    /// The size of segments of each cluster whose backups were known.
    pub sizes: Vec<(SystemId, SegmentSize)>,
}

/// `holds/{backup}.json`: somebody wants this backup kept, or this snapshot, or both where they have one name.
#[derive(Debug, Serialize, Deserialize)]
struct HoldDocument {
    format: u32,
    backup: BackupId,
    why: String,
    since: Timestamp,
    released: bool,
}

/// `expired/{backup}.json`, of a snapshot `expired/packages-{backup}.json`: it was unlisted, and its objects go when the grace has passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tombstone {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// When it was written, by the earlier of that host's clock and the store's.
    pub expired: Timestamp,
    /// As it was listed.
    #[serde(rename = "backup")]
    pub buried: Listed,
}

/// What is listed and can be unlisted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Listed {
    /// A base backup, listed below `full`.
    Backup(BackupDocument),
    /// A snapshot of the application's objects, listed below `packages`.
    Snapshot(SnapshotDocument),
}

impl Listed {
    /// Its name; a backup and a snapshot may have the same.
    pub fn id(&self) -> BackupId {
        match self {
            Self::Backup(backup) => backup.id,
            Self::Snapshot(snapshot) => snapshot.id,
        }
    }
    /// `None` for what no tombstone of ours speaks of.
    pub fn kind(&self) -> Option<BackupKind> {
        match self {
            Self::Backup(backup) => Some(backup.kind).filter(|kind| *kind == BackupKind::Full),
            Self::Snapshot(snapshot) => Some(snapshot.kind).filter(|kind| *kind == BackupKind::Packages),
        }
    }
    /// The data key of its packs and its manifest; `None` where encryption is off.
    pub fn key(&self) -> Option<KeyId> {
        match self {
            Self::Backup(backup) => backup.key,
            Self::Snapshot(snapshot) => snapshot.key,
        }
    }
    /// Bytes in the repository, manifest included; of a snapshot without what it refers to in earlier ones.
    pub fn bytes_stored(&self) -> u64 {
        match self {
            Self::Backup(backup) => backup.bytes_stored,
            Self::Snapshot(snapshot) => snapshot.bytes_stored,
        }
    }
}

impl Reader {
    /// What the last run of expiry left, with its version.
    pub async fn expiry(&self) -> Result<Option<(ExpiryState, Version)>, RepoError> {
        self.versioned(layout::expiry()).await
    }

    /// The backups and snapshots that somebody holds, and why.
    pub async fn holds(&self) -> Result<BTreeMap<BackupId, String>, RepoError> {
        let mut found = BTreeMap::new();
        let mut objects = self.store.list(layout::HOLDS, None);
        while let Some(object) = objects.try_next().await? {
            let hold: HoldDocument = document::read(&object.path, &self.store.get(&object.path).await?)?;
            if !hold.released {
                found.insert(hold.backup, hold.why);
            }
        }
        Ok(found)
    }

    /// What waits to be removed, each with when that was written by the store's clock.
    pub async fn tombstones(&self) -> Result<Vec<(Tombstone, Timestamp)>, RepoError> {
        self.tombstones_named(|_| true).await
    }

    /// What of this kind waits to be removed. Only that is read: of snapshots some wait for as long as another one refers to their packs.
    pub async fn tombstones_of(&self, kind: BackupKind) -> Result<Vec<(Tombstone, Timestamp)>, RepoError> {
        let is_snapshots = |name: &str| name.starts_with(layout::SNAPSHOT_TOMBSTONE);
        let mut found = self.tombstones_named(|name| is_snapshots(name) == (kind == BackupKind::Packages)).await?;
        found.retain(|(tombstone, _)| tombstone.buried.kind() == Some(kind));
        Ok(found)
    }

    async fn tombstones_named(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<(Tombstone, Timestamp)>, RepoError> {
        let mut found = Vec::new();
        let mut objects = self.store.list(layout::EXPIRED, None);
        while let Some(object) = objects.try_next().await? {
            if is_wanted(object.path.name()) {
                found.push((document::read(&object.path, &self.store.get(&object.path).await?)?, object.modified));
            }
        }
        Ok(found)
    }

    /// Of what kinds something of this name is listed.
    async fn listed_kinds(&self, id: BackupId) -> Result<Vec<BackupKind>, RepoError> {
        let mut found = Vec::new();
        for kind in [BackupKind::Full, BackupKind::Packages] {
            if self.store.info(&layout::listing_of(kind, id)).await?.is_some() {
                found.push(kind);
            }
        }
        Ok(found)
    }

    async fn versioned<T: serde::de::DeserializeOwned>(&self, path: store::ObjectPath) -> Result<Option<(T, Version)>, RepoError> {
        // The version first: what is read then is that or newer, and a newer one makes the write fail.
        let Some(info) = self.store.info(&path).await? else { return Ok(None) };
        Ok(Some((document::read(&path, &self.store.get(&path).await?)?, info.version)))
    }
}

impl Writer {
    /// Leaves this to the next run of expiry, unless another run was faster.
    pub async fn save_expiry(&self, state: &ExpiryState, expected: Option<&Version>) -> Result<Version, RepoError> {
        let path = layout::expiry();
        let saved = self.store.replace(&path, document::write(state)?, expected).await?;
        saved.ok_or_else(|| RepoError::Contended { path: path.to_string() })
    }

    /// Keeps a listed backup until [`Writer::unhold`]; or a snapshot of packages, or both where they have one name.
    pub async fn hold(&self, backup: BackupId, why: &str, now: Timestamp) -> Result<(), RepoError> {
        let kinds = self.reader().listed_kinds(backup).await?;
        if kinds.is_empty() {
            return Err(RepoError::NoBackup { backup: backup.to_string() });
        }
        self.set_hold(HoldDocument { format: document::FORMAT, backup, why: why.to_owned(), since: now, released: false }).await?;
        // An expiry that did not see the hold has unlisted it.
        match self.reader().listed_kinds(backup).await? == kinds {
            true => Ok(()),
            false => Err(RepoError::NoBackup { backup: backup.to_string() }),
        }
    }

    /// Lets a held backup go; whether it was held.
    pub async fn unhold(&self, backup: BackupId, now: Timestamp) -> Result<bool, RepoError> {
        let Some(why) = self.reader().holds().await?.remove(&backup) else { return Ok(false) };
        self.set_hold(HoldDocument { format: document::FORMAT, backup, why, since: now, released: true }).await?;
        Ok(true)
    }

    async fn set_hold(&self, hold: HoldDocument) -> Result<(), RepoError> {
        self.put_over(&layout::hold(hold.backup), document::write(&hold)?).await
    }

    /// Writes down that this is about to be unlisted. What an interrupted run left is written anew: the grace begins now.
    pub async fn bury(&self, listed: &Listed, now: Timestamp) -> Result<(), RepoError> {
        let kind = listed.kind().ok_or_else(|| RepoError::Bug(format!("{} is of no kind that expires", listed.id())))?;
        let tombstone = Tombstone { format: document::FORMAT, expired: now, buried: listed.clone() };
        self.put_over(&layout::tombstone(kind, listed.id()), document::write(&tombstone)?).await
    }

    /// Replaces a document whatever it says now.
    async fn put_over(&self, path: &store::ObjectPath, body: bytes::Bytes) -> Result<(), RepoError> {
        for _ in 0..TRIES {
            let before = self.store.info(path).await?.map(|info| info.version);
            if self.store.replace(path, body.clone(), before.as_ref()).await?.is_some() {
                return Ok(());
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }
}
