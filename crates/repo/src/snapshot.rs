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
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// The same as in its path; later than that of every snapshot that was listed before.
    pub id: BackupId,
    /// [`BackupKind::Packages`].
    pub kind: BackupKind,
    /// The one that it was written into; a document of another one is refused.
    pub repository: RepositoryId,
    /// Whose objects these are, by their address.
    pub source: String,
    /// Before the first object was listed: whatever was there then and not overwritten or removed before it was read is in it.
    pub began: Timestamp,
    /// After the last object was read.
    pub ended: Timestamp,
    /// Those that were there; former versions do not count.
    pub objects: u64,
    /// The sum of their sizes, before compression.
    pub bytes: u64,
    /// Of these, what no earlier snapshot held.
    pub objects_new: u64,
    /// Their bytes, before compression.
    pub bytes_new: u64,
    /// Bytes in the repository, manifest included.
    pub bytes_stored: u64,
    /// Its own, numbered from 1; 0 when nothing was new.
    pub packs: u32,
    /// Whether its packs and its list are sealed.
    pub encryption: Encryption,
    /// The data key of packs and list; absent where encryption is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The earlier snapshots in whose packs some of its chunks lie: they must stay as long as this one.
    pub needs: BTreeSet<BackupId>,
    /// Whether the source kept versions when this one was made. Only of one that did can a later one know all that came after it.
    #[serde(default)]
    pub kept_versions: bool,
    /// What it has of the time before it, where the source keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<SnapshotVersions>,
    /// The program's name and version.
    pub written_by: String,
}

/// The versions and removals since an earlier snapshot of the same source began, and what was there then of each key that changed: all
/// that the source still had when this one was made. What the earlier one holds is referred to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotVersions {
    /// That snapshot.
    pub since: BackupId,
    /// Whether of versions and removals of one time the order can be believed.
    pub ordered: bool,
    /// Former versions, their bytes, and removals.
    pub objects: u64,
    /// Of the former versions, before compression.
    pub bytes: u64,
    /// How often something was removed.
    pub removals: u64,
}

/// One object, or a former version of one. Chunk *i* holds its bytes from *i* × `chunk_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotObject {
    /// Below the prefix or folder of the source.
    pub key: String,
    /// Bytes, before compression.
    pub size: u64,
    /// When it was written, by the clock of the source's store; of a folder the file's own time.
    pub modified: Timestamp,
    /// As the source's store told it; compared, never parsed.
    pub etag: String,
    /// What was written beside it.
    #[serde(default)]
    pub facts: ItemFacts,
    /// In whose packs the chunks lie; this one's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_in: Option<BackupId>,
    /// It was overwritten or removed before the snapshot was made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub former: bool,
    /// In the order of the object.
    pub chunks: Vec<ChunkRef>,
}

/// From then on the object was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRemoval {
    /// Below the prefix or folder of the source.
    pub key: String,
    /// When it was removed, by the clock of the source's store.
    pub modified: Timestamp,
}

/// What a snapshot says of a key. Of each the newest comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotEntry {
    /// It is there, or was: then it is a former version.
    Object(SnapshotObject),
    /// It was not there from then on.
    Removed(SnapshotRemoval),
}

impl SnapshotEntry {
    /// Below the prefix or folder of the source.
    pub fn key(&self) -> &str {
        match self {
            Self::Object(object) => &object.key,
            Self::Removed(removal) => &removal.key,
        }
    }

    /// When it came to be so, by the store's clock.
    pub fn modified(&self) -> Timestamp {
        match self {
            Self::Object(object) => object.modified,
            Self::Removed(removal) => removal.modified,
        }
    }

    /// What is there now, not what was.
    fn is_present(&self) -> bool {
        matches!(self, Self::Object(object) if !object.former)
    }

    /// Whether it may come next: by key, and of each key only the first is what is there now.
    fn follows(&self, last: Option<&str>) -> bool {
        last.is_none_or(|last| last < self.key() || (last == self.key() && !self.is_present()))
    }
}

/// The first line of the list; repeats, sealed, what `backup.json` says readably.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// 1 so far.
    pub format: u32,
    /// The one that it was written into.
    pub repository: RepositoryId,
    /// The same as in its path.
    pub snapshot: BackupId,
    /// Whose objects these are, by their address.
    pub source: String,
    /// Before the first object was listed.
    pub began: Timestamp,
    /// Plain bytes of every chunk but an object's last: 1 MiB.
    pub chunk_bytes: u32,
    /// Whether packs and list are sealed.
    pub encryption: Encryption,
    /// As in [`SnapshotVersions`]; absent where there is none of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<BackupId>,
    /// As in [`SnapshotVersions`]; false where there is none of that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ordered: bool,
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEnd {
    /// After the last object was read.
    pub ended: Timestamp,
    /// Lines of objects that are not former.
    pub objects: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// Former versions, their bytes, and removals.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub former: u64,
    /// The sum of the sizes of former versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub former_bytes: u64,
    /// Lines of removals.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removals: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the lines so far hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    objects: u64,
    bytes: u64,
    former: u64,
    former_bytes: u64,
    removals: u64,
}

impl Counted {
    fn add(&mut self, entry: &SnapshotEntry) {
        match entry {
            SnapshotEntry::Object(object) if object.former => (self.former, self.former_bytes) = (self.former + 1, self.former_bytes + object.size),
            SnapshotEntry::Object(object) => (self.objects, self.bytes) = (self.objects + 1, self.bytes + object.size),
            SnapshotEntry::Removed(_) => self.removals += 1,
        }
    }

    fn end(self, ended: Timestamp) -> SnapshotEnd {
        let Self { objects, bytes, former, former_bytes, removals } = self;
        SnapshotEnd { ended, objects, bytes, former, former_bytes, removals }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Header(SnapshotHeader),
    Object(SnapshotObject),
    Removed(SnapshotRemoval),
    End(SnapshotEnd),
}

/// Writes the list in bounded memory, by the bytes of keys. Blocking: not for the runtime's threads.
pub struct SnapshotWriter {
    lines: Lines,
    last: Option<String>,
    counted: Counted,
}

impl SnapshotWriter {
    /// Begins the list of a snapshot.
    pub fn begin(writer: &Writer, protection: &Protection, header: SnapshotHeader) -> Result<Self, RepoError> {
        let mut lines = Lines::begin(writer, protection, &layout::manifest(BackupKind::Packages, header.snapshot))?;
        lines.write(&Line::Header(header))?;
        Ok(Self { lines, last: None, counted: Counted::default() })
    }

    /// Adds a line.
    pub fn write(&mut self, entry: SnapshotEntry) -> Result<(), RepoError> {
        if !entry.follows(self.last.as_deref()) {
            return Err(RepoError::Bug(format!("{} comes out of order into a snapshot", entry.key())));
        }
        self.counted.add(&entry);
        self.last = Some(entry.key().to_owned());
        self.lines.write(&match entry {
            SnapshotEntry::Object(object) => Line::Object(object),
            SnapshotEntry::Removed(removal) => Line::Removed(removal),
        })
    }

    /// Adds the last line and ends the list; what it says, and the list's own size.
    pub fn finish(mut self, ended: Timestamp) -> Result<(SnapshotEnd, u64), RepoError> {
        let end = self.counted.end(ended);
        self.lines.write(&Line::End(end))?;
        Ok((end, self.lines.finish()?))
    }
}

/// Reads the list in bounded memory, and insists that it is whole.
pub struct SnapshotReader {
    source: Source,
    ready: VecDeque<Line>,
    header: SnapshotHeader,
    last: Option<String>,
    counted: Counted,
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
        source.refuse_newer(header.format)?;
        source.refuse_other_key(snapshot.key)?;
        let agrees = (header.snapshot, header.repository, &header.source, header.began, header.encryption)
            == (snapshot.id, reader.document().id, &snapshot.source, snapshot.began, snapshot.encryption);
        let versions = snapshot.versions.as_ref();
        let versions = (versions.map(|versions| versions.since), versions.is_some_and(|versions| versions.ordered));
        if !agrees || versions != (header.since, header.ordered) {
            return Err(source.damaged("its backup.json says something else"));
        }
        Ok(Self { source, ready, header, last: None, counted: Counted::default(), ended: false })
    }

    /// The first line.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next object or former version, or `None` after the last: all that has chunks.
    pub async fn next(&mut self) -> Result<Option<SnapshotObject>, RepoError> {
        while let Some(entry) = self.next_entry().await? {
            if let SnapshotEntry::Object(object) = entry {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// The next object of those that were there when the snapshot was made.
    pub async fn next_present(&mut self) -> Result<Option<SnapshotObject>, RepoError> {
        while let Some(object) = self.next().await? {
            if !object.former {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// The next line, or `None` after the last.
    pub async fn next_entry(&mut self) -> Result<Option<SnapshotEntry>, RepoError> {
        loop {
            let entry = match self.ready.pop_front() {
                Some(_) if self.ended => return Err(self.source.damaged("something follows its end")),
                Some(Line::Object(object)) => {
                    let wanted = object.size.div_ceil(u64::from(self.header.chunk_bytes).max(1));
                    if object.chunks.len() as u64 != wanted {
                        return Err(self.source.damaged(&format!("its line of {} makes no sense", object.key)));
                    }
                    SnapshotEntry::Object(object)
                }
                Some(Line::Removed(removal)) => SnapshotEntry::Removed(removal),
                Some(Line::End(end)) if end == self.counted.end(end.ended) => {
                    self.ended = true;
                    continue;
                }
                Some(_) => return Err(self.source.damaged("its totals do not match its lines")),
                None if self.source.fill(&mut self.ready).await? => continue,
                None if self.ended => return Ok(None),
                None => return Err(self.source.damaged("it has no end")),
            };
            if !entry.follows(self.last.as_deref()) {
                return Err(self.source.damaged(&format!("its line of {} makes no sense", entry.key())));
            }
            self.counted.add(&entry);
            self.last = Some(entry.key().to_owned());
            return Ok(Some(entry));
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
        self.new_protection(KeyPurpose::Packages, now).await
    }

    /// A name after all that are listed, and that no attempt has taken: one that was killed in this very second may have.
    pub async fn free_snapshot_name(&self, began: Timestamp, listed: &[SnapshotDocument]) -> Result<BackupId, RepoError> {
        let taken = self.reader.snapshot_names().await?;
        let mut id = BackupId::begun(began);
        while taken.contains(&id) || listed.last().is_some_and(|newest| newest.id >= id) {
            id = id.next();
        }
        Ok(id)
    }

    /// Publishes a snapshot whose packs and list are durable: one conditional put, after which it is listed.
    ///
    /// What the newest one of its source needs is kept whatever retention says. So this one must need nothing beyond that: else another
    /// run listed one meanwhile, and what this one refers to may have been let go.
    pub async fn publish_snapshot(&self, snapshot: &SnapshotDocument) -> Result<(), RepoError> {
        self.key_is_there(snapshot.key).await?;
        self.packs_are_there(BackupKind::Packages, snapshot.id, snapshot.packs).await?;
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
