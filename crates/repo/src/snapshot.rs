//! Snapshots of the application's objects: a sealed list of all of them, complete by itself, and packs of what is new.
//!
//! What did not change since an earlier snapshot is not stored again: its line names that snapshot, in whose packs its chunks lie.

use crate::keyring::KeyPurpose;
use crate::manifest::{ChunkRef, Lines, Source};
use crate::{Encryption, Reader, RepoError, Writer, document, layout};
use futures::{StreamExt, TryStreamExt};
use seal::{KeyId, Protection, RepositoryId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use store::{Created, ItemFacts, StoreError};
use terms::{BackupId, BackupKind, Timestamp};

/// `packages/{id}/backup.json`: written last, and once. The only commit point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotDocument {
    pub format: u32,
    pub id: BackupId,
    pub kind: BackupKind,
    pub repository: RepositoryId,
    /// Whose objects these are, by their address.
    pub source: String,
    /// Before the first object was listed: whatever was there then and not overwritten or removed before it was read is in it.
    pub began: Timestamp,
    /// After the last object was read.
    pub ended: Timestamp,
    pub objects: u64,
    pub bytes: u64,
    /// Of these, what no earlier snapshot held.
    pub objects_new: u64,
    pub bytes_new: u64,
    /// Bytes in the repository, manifest included.
    pub bytes_stored: u64,
    pub packs: u32,
    pub encryption: Encryption,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The earlier snapshots in whose packs some of its chunks lie: they must stay as long as this one.
    pub needs: BTreeSet<BackupId>,
    pub written_by: String,
}

/// One object. Chunk *i* holds its bytes from *i* × `chunk_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotObject {
    pub key: String,
    pub size: u64,
    pub modified: Timestamp,
    /// As the source's store told it; compared, never parsed.
    pub etag: String,
    /// What was written beside it.
    #[serde(default)]
    pub facts: ItemFacts,
    /// In whose packs the chunks lie; this one's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_in: Option<BackupId>,
    pub chunks: Vec<ChunkRef>,
}

/// The first line of the list; repeats, sealed, what `backup.json` says readably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    pub format: u32,
    pub repository: RepositoryId,
    pub snapshot: BackupId,
    pub source: String,
    pub began: Timestamp,
    pub chunk_bytes: u32,
    pub encryption: Encryption,
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEnd {
    pub ended: Timestamp,
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Header(SnapshotHeader),
    Object(SnapshotObject),
    End(SnapshotEnd),
}

/// Writes the list in bounded memory, by the bytes of keys. Blocking: not for the runtime's threads.
pub struct SnapshotWriter {
    lines: Lines,
    last: Option<String>,
    counted: (u64, u64),
}

impl SnapshotWriter {
    /// Begins the list of a snapshot.
    pub fn begin(writer: &Writer, protection: &Protection, header: SnapshotHeader) -> Result<Self, RepoError> {
        let mut lines = Lines::begin(writer, protection, &layout::manifest(BackupKind::Packages, header.snapshot))?;
        lines.write(&Line::Header(header))?;
        Ok(Self { lines, last: None, counted: (0, 0) })
    }

    /// Adds an object.
    pub fn write(&mut self, object: SnapshotObject) -> Result<(), RepoError> {
        if self.last.as_ref().is_some_and(|last| *last >= object.key) {
            return Err(RepoError::Bug(format!("{} comes out of order into a snapshot", object.key)));
        }
        self.last = Some(object.key.clone());
        self.counted = (self.counted.0 + 1, self.counted.1 + object.size);
        self.lines.write(&Line::Object(object))
    }

    /// Adds the last line and ends the list; objects, bytes, and the list's own size.
    pub fn finish(mut self, ended: Timestamp) -> Result<(u64, u64, u64), RepoError> {
        let (objects, bytes) = self.counted;
        self.lines.write(&Line::End(SnapshotEnd { ended, objects, bytes }))?;
        Ok((objects, bytes, self.lines.finish()?))
    }
}

/// Reads the list in bounded memory, and insists that it is whole.
pub struct SnapshotReader {
    source: Source,
    ready: VecDeque<Line>,
    header: SnapshotHeader,
    last: Option<String>,
    counted: (u64, u64),
    ended: bool,
}

impl SnapshotReader {
    /// Opens the list of a snapshot, and holds its `backup.json` against what is sealed here.
    pub async fn open(reader: &Reader, snapshot: &SnapshotDocument) -> Result<Self, RepoError> {
        let mut source = Source::open(reader, BackupKind::Packages, snapshot.id).await?;
        let mut ready = VecDeque::new();
        while ready.is_empty() {
            if !source.fill(&mut ready).await? {
                return Err(source.damaged("it is empty"));
            }
        }
        let Some(Line::Header(header)) = ready.pop_front() else { return Err(source.damaged("it does not begin with its header")) };
        let agrees = (header.snapshot, header.repository, &header.source, header.began, header.encryption)
            == (snapshot.id, reader.document().id, &snapshot.source, snapshot.began, snapshot.encryption);
        if !agrees {
            return Err(source.damaged("its backup.json says something else"));
        }
        Ok(Self { source, ready, header, last: None, counted: (0, 0), ended: false })
    }

    /// The first line.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next object, or `None` after the last.
    pub async fn next(&mut self) -> Result<Option<SnapshotObject>, RepoError> {
        loop {
            match self.ready.pop_front() {
                Some(_) if self.ended => return Err(self.source.damaged("something follows its end")),
                Some(Line::Object(object)) => {
                    let wanted = object.size.div_ceil(u64::from(self.header.chunk_bytes).max(1));
                    if object.chunks.len() as u64 != wanted || self.last.as_ref().is_some_and(|last| *last >= object.key) {
                        return Err(self.source.damaged(&format!("its line of {} makes no sense", object.key)));
                    }
                    self.counted = (self.counted.0 + 1, self.counted.1 + object.size);
                    self.last = Some(object.key.clone());
                    return Ok(Some(object));
                }
                Some(Line::End(end)) if (end.objects, end.bytes) == self.counted => self.ended = true,
                Some(_) => return Err(self.source.damaged("its totals do not match its lines")),
                None if self.source.fill(&mut self.ready).await? => {}
                None if self.ended => return Ok(None),
                None => return Err(self.source.damaged("it has no end")),
            }
        }
    }
}

impl Reader {
    /// Every listed snapshot, oldest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotDocument>, RepoError> {
        let mut found: Vec<SnapshotDocument> = futures::stream::iter(self.snapshot_names().await?)
            .map(|id| self.snapshot_if_listed(id))
            .buffer_unordered(16)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        found.sort_by_key(|snapshot| snapshot.id);
        Ok(found)
    }

    /// The names below which snapshots lie, or attempts at one, oldest first.
    pub async fn snapshot_names(&self) -> Result<Vec<BackupId>, RepoError> {
        let names = self.store.folders(&BackupKind::Packages.to_string()).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// A snapshot's document; `None` where none is listed: an attempt that never became one.
    pub async fn snapshot_if_listed(&self, id: BackupId) -> Result<Option<SnapshotDocument>, RepoError> {
        let path = layout::backup_document(BackupKind::Packages, id);
        match self.store.get(&path).await {
            Ok(bytes) => {
                let read: SnapshotDocument = document::read(&path, &bytes)?;
                if read.id != id || read.repository != self.document().id {
                    return Err(RepoError::Document { path: path.to_string(), why: "it belongs to another snapshot or repository".into() });
                }
                Ok(Some(read))
            }
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Writer {
    /// A new data key for a snapshot, or plain where encryption is off by name.
    pub async fn snapshot_protection(&self, now: Timestamp) -> Result<Protection, RepoError> {
        match self.reader.document.encryption {
            Encryption::Aes256Gcm => Ok(Protection::Sealed(self.reader.keyring.create(&*self.store, KeyPurpose::Packages, now).await?)),
            Encryption::Off => Ok(Protection::Plain),
        }
    }

    /// Publishes a snapshot whose packs and list are durable: one conditional put, after which it is listed.
    ///
    /// What the newest one of its source needs is kept whatever retention says. So this one must need nothing beyond that: else another
    /// run listed one meanwhile, and what this one refers to may have been let go.
    pub async fn publish_snapshot(&self, snapshot: &SnapshotDocument) -> Result<(), RepoError> {
        self.key_is_there(snapshot.key).await?;
        if !snapshot.needs.is_empty() {
            let listed = self.reader.snapshots().await?;
            let newest = listed.iter().rev().find(|other| other.source == snapshot.source);
            let is_kept = |need: &BackupId| newest.is_some_and(|newest| newest.id == *need || newest.needs.contains(need));
            if !snapshot.needs.iter().all(is_kept) {
                return Err(RepoError::SnapshotOvertaken { snapshot: snapshot.id.to_string(), source_address: snapshot.source.clone() });
            }
        }
        let path = layout::backup_document(BackupKind::Packages, snapshot.id);
        match self.store.put_new(&path, document::write(snapshot)?).await? {
            Created::New => Ok(()),
            Created::AlreadyThere => Err(RepoError::BackupExists { backup: snapshot.id.to_string() }),
        }
    }
}

impl SnapshotDocument {
    /// The format and the program that a document written now carries.
    pub fn stamp() -> (u32, String) {
        (document::FORMAT, crate::repository::created_by())
    }
}
