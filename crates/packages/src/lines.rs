//! The lines of a snapshot, those of one key together.

use crate::PackagesError;
use futures::stream::{BoxStream, StreamExt};
use repo::{Reader, SnapshotDocument, SnapshotEntry, SnapshotReader};
use terms::BackupId;

/// What a snapshot says of a key, the newest first. Each object names the snapshot in which its chunks lie.
#[derive(Debug, Clone)]
pub(crate) struct KeyLines {
    pub key: String,
    pub entries: Vec<SnapshotEntry>,
}

pub(crate) type AllLines = BoxStream<'static, Result<KeyLines, PackagesError>>;

/// All of a snapshot, by the bytes of keys.
pub(crate) async fn open(reader: &Reader, snapshot: &SnapshotDocument) -> Result<AllLines, PackagesError> {
    let (id, lines) = (snapshot.id, SnapshotReader::open(reader, snapshot).await?);
    let all = futures::stream::try_unfold((lines, None::<SnapshotEntry>), move |(mut lines, head)| async move {
        let Some(first) = (match head {
            Some(head) => Some(head),
            None => lines.next_entry().await?,
        }) else {
            return Ok(None);
        };
        let mut found = KeyLines { key: first.key().to_owned(), entries: vec![stored(first, id)] };
        let head = loop {
            match lines.next_entry().await? {
                Some(entry) if entry.key() == found.key => found.entries.push(stored(entry, id)),
                next => break next,
            }
        };
        Ok(Some((found, (lines, head))))
    });
    Ok(all.boxed())
}

fn stored(mut entry: SnapshotEntry, id: BackupId) -> SnapshotEntry {
    if let SnapshotEntry::Object(object) = &mut entry {
        object.stored_in.get_or_insert(id);
    }
    entry
}
