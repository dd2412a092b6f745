//! What retention has to know of each backup beside its document: how its last drill went, and whether it is held.

use repo::retention::Candidate;
use repo::{Reader, RepoError};
use serde::Deserialize;
use std::collections::BTreeMap;
use terms::{BackupId, Timestamp};

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

/// The newest drill of each backup that ended in a verdict. One that could not look at everything says nothing against the backup.
async fn drilled(reader: &Reader) -> Result<BTreeMap<BackupId, (Timestamp, bool)>, RepoError> {
    let mut found = BTreeMap::new();
    for path in reader.drills().await? {
        let drill: Drill = match reader.drill(&path).await {
            Ok(Some(drill)) => drill,
            Err(e @ RepoError::Store(_)) => return Err(e),
            // A damaged report tells nothing.
            Ok(None) | Err(_) => continue,
        };
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
