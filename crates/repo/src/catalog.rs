//! The list of backups: each is there from the moment its `backup.json` is.

use crate::{Encryption, Reader, RepoError, Writer, document, layout};
use futures::{StreamExt, TryStreamExt};
use seal::{KeyId, RepositoryId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use store::{Created, ObjectPath};
use terms::{BackupId, BackupKind, Lsn, SegmentSize, SystemId, Timeline, Timestamp};

/// A position in the log and when the server passed it, by the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPosition {
    /// Of the cluster and timeline that the document names.
    pub lsn: Lsn,
    /// Of a backup's start no later than that, of its stop no earlier.
    pub time: Timestamp,
}

/// `backup.json`: small, readable, without secrets; written last, and once. The only commit point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupDocument {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// The same as in its path, made of the time at which it was begun.
    pub id: BackupId,
    /// [`BackupKind::Full`]; a snapshot has a document of its own.
    pub kind: BackupKind,
    /// The one that it was written into; a document of another one is refused.
    pub repository: RepositoryId,
    /// The cluster's, as initdb made it: its log lies below `wal/{system id}`.
    pub system_id: SystemId,
    /// PostgreSQL's major version.
    pub major: u32,
    /// PostgreSQL's version as it says itself.
    pub server_version: String,
    /// The one on which it was made.
    pub timeline: Timeline,
    /// Where replay begins (the start checkpoint's redo position).
    pub start: WalPosition,
    /// Where the backup is consistent: no earlier instant can be reached from it.
    pub stop: WalPosition,
    /// `wal_segment_size`.
    pub segment_bytes: SegmentSize,
    /// `local` or `stream`.
    pub source: String,
    /// What was asked for, `zstd:LEVEL`, `lz4` or `none`; each frame says its own.
    pub compression: String,
    /// Whether its packs and its manifest are sealed.
    pub encryption: Encryption,
    /// The data key of packs and manifest; absent where encryption is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// Lines of the manifest for files, configuration from outside the data directory included.
    pub files: u64,
    /// Bytes of the database.
    pub bytes: u64,
    /// Bytes in the repository, manifest included.
    pub bytes_stored: u64,
    /// How many there are, numbered from 1.
    pub packs: u32,
    /// Of the object as it is stored.
    pub manifest_bytes: u64,
    /// Whether the cluster has page checksums, so that every page was verified.
    pub page_checksums: bool,
    /// Pages whose checksum did not match; such a backup is published only when told to.
    pub pages_damaged: u64,
    /// From begin to publication.
    pub took_seconds: f64,
    /// The program's name and version.
    pub written_by: String,
}

impl Reader {
    /// Every listed backup, oldest first. Folders without a `backup.json` are attempts and are not backups.
    pub async fn backups(&self) -> Result<Vec<BackupDocument>, RepoError> {
        self.backups_without(&BTreeSet::new()).await
    }

    /// [`Reader::backups`] as if these were not there: nothing of them is read, so that a damaged one is in nobody's way.
    pub async fn backups_without(&self, left_out: &BTreeSet<BackupId>) -> Result<Vec<BackupDocument>, RepoError> {
        let kind = BackupKind::Full;
        let ids = self.store.folders(&kind.to_string()).await?;
        let ids: Vec<BackupId> = ids.iter().filter_map(|name| name.parse().ok()).filter(|id| !left_out.contains(id)).collect();
        let mut found: Vec<BackupDocument> = futures::stream::iter(ids)
            .map(|id| self.backup_if_listed(kind, id))
            .buffer_unordered(16)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        found.sort_by_key(|b| b.id);
        Ok(found)
    }

    /// [`Reader::backups`] that can be read, and why each other one cannot: one bad document says nothing of the others.
    pub async fn backups_and_damage(&self) -> Result<(Vec<BackupDocument>, Vec<RepoError>), RepoError> {
        let (found, unread) = readable(self.backup_names().await?, |id| self.backup_if_listed(BackupKind::Full, id)).await?;
        Ok((found.into_values().collect(), unread.into_values().collect()))
    }

    /// The names below which backups lie, or attempts at one, oldest first.
    pub async fn backup_names(&self) -> Result<Vec<BackupId>, RepoError> {
        let names = self.store.folders(&BackupKind::Full.to_string()).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// A backup's document; `None` where none is listed.
    pub async fn backup_if_listed(&self, kind: BackupKind, id: BackupId) -> Result<Option<BackupDocument>, RepoError> {
        let path = layout::backup_document(kind, id);
        match self.store.get(&path).await {
            Ok(bytes) => {
                let found: BackupDocument = document::read(&path, &bytes)?;
                if found.id != id || found.repository != self.document().id {
                    return Err(RepoError::Document { path: path.to_string(), why: "it belongs to another backup or repository".into() });
                }
                Ok(Some(found))
            }
            Err(store::StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// What each of these names lists, as far as it can be read, and why each other one cannot. A name that lists nothing is in neither.
pub(crate) async fn readable<T, F: Future<Output = Result<Option<T>, RepoError>>>(
    names: Vec<BackupId>,
    read: impl Fn(BackupId) -> F,
) -> Result<(BTreeMap<BackupId, T>, BTreeMap<BackupId, RepoError>), RepoError> {
    let answers: Vec<_> = futures::stream::iter(names.iter().copied().map(read)).buffered(16).collect().await;
    let (mut found, mut unread) = (BTreeMap::new(), BTreeMap::new());
    for (name, answer) in names.into_iter().zip(answers) {
        match answer {
            Ok(None) => {}
            Ok(Some(listed)) => drop(found.insert(name, listed)),
            Err(e) if e.is_unreadable() => drop(unread.insert(name, e)),
            Err(e) => return Err(e),
        }
    }
    Ok((found, unread))
}

impl Writer {
    /// Publishes a backup: one conditional put, after which it is listed.
    /// Private to the room's neighbours by convention: only a covered backup session may call it.
    pub async fn publish(&self, backup: &BackupDocument) -> Result<(), RepoError> {
        self.key_is_there(backup.key).await?;
        self.packs_are_there(backup.kind, backup.id, backup.packs).await?;
        let path = layout::backup_document(backup.kind, backup.id);
        match self.store.put_new(&path, document::write(backup)?).await? {
            Created::New => Ok(()),
            Created::AlreadyThere => Err(RepoError::BackupExists { backup: backup.id.to_string() }),
        }
    }

    /// Whether all that an attempt stored is still there. One that was held up for longer than expiry waits may have been swept away in
    /// parts; with its manifest stored it is left alone for days more, so nothing goes right after this was asked.
    pub(crate) async fn packs_are_there(&self, kind: BackupKind, id: BackupId, packs: u32) -> Result<(), RepoError> {
        let found: BTreeSet<ObjectPath> = self.store.list(&layout::backup_folder(kind, id), None).map_ok(|object| object.path).try_collect().await?;
        match (1..=packs).map(|number| layout::pack_path(kind, id, number)).find(|pack| !found.contains(pack)) {
            Some(pack) => Err(RepoError::Swept { backup: id.to_string(), pack: pack.to_string() }),
            None => Ok(()),
        }
    }
}

impl BackupDocument {
    /// The format and the program that a document written now carries.
    pub fn stamp() -> (u32, String) {
        (document::FORMAT, crate::repository::created_by())
    }
}
