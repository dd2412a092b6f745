//! What retention has to know of each backup beside its document: how its last drill went, and whether it is held.

use futures::{StreamExt, TryStreamExt, stream};
use repo::retention::{Candidate, SnapshotCandidate};
use repo::{Reader, RepoError};
use serde::Deserialize;
use std::collections::BTreeMap;
use terms::{BackupId, Timestamp};

/// Reports read at once.
const AT_ONCE: usize = 16;

/// What of a drill's report counts here.
#[derive(Debug, Deserialize)]
struct Drill {
    outcome: String,
    began: Timestamp,
    backup: Option<BackupId>,
}

/// Every listed backup with what is known of it.
pub(crate) async fn candidates(reader: &Reader) -> Result<Vec<Candidate>, RepoError> {
    let backups = reader.backups().await?;
    let mut holds = reader.holds().await?;
    let mut drilled = drilled(reader).await?;
    let known = |backup: repo::BackupDocument| {
        let id = backup.id;
        Candidate { backup, drilled: drilled.remove(&id), held: holds.remove(&id), in_use: None }
    };
    Ok(backups.into_iter().map(known).collect())
}

/// Every listed snapshot of packages with what is known of it.
pub(crate) async fn snapshots(reader: &Reader) -> Result<Vec<SnapshotCandidate>, RepoError> {
    let holds = reader.holds().await?;
    let known = |snapshot: repo::SnapshotDocument| SnapshotCandidate { held: holds.get(&snapshot.id).cloned(), snapshot };
    Ok(reader.snapshots().await?.into_iter().map(known).collect())
}

/// The newest drill of each backup that ended in a verdict. One that could not look at everything says nothing against the backup.
async fn drilled(reader: &Reader) -> Result<BTreeMap<BackupId, (Timestamp, bool)>, RepoError> {
    let mut found = BTreeMap::new();
    let read = |path| async move {
        match reader.drill::<Drill>(&path).await {
            Err(e @ RepoError::Store(_)) => Err(e),
            // A damaged report tells nothing.
            found => Ok(found.ok().flatten()),
        }
    };
    let mut drills = stream::iter(reader.drills().await?).map(read).buffered(AT_ONCE);
    while let Some(drill) = drills.try_next().await? {
        let Some(drill) = drill else { continue };
        let passed = match drill.outcome.as_str() {
            "passed" => true,
            "failed" => false,
            _ => continue,
        };
        if let Some(backup) = drill.backup {
            found.entry(backup).or_insert((drill.began, passed));
        }
    }
    Ok(found)
}
