//! What retention has to know of each backup beside its document: how its last drill went, whether it is held, and whether somebody reads it.

use futures::{StreamExt, TryStreamExt, stream};
use repo::retention::{Candidate, SnapshotCandidate};
use repo::{Reader, RepoError, Run, RunName};
use serde::Deserialize;
use std::collections::BTreeMap;
use terms::{BackupId, Timestamp};

/// Reports read at once.
const AT_ONCE: usize = 16;

/// Jobs that read a backup. Which one they chose the ledger does not know while they run.
const READING: [&str; 2] = ["drill", "restore"];
/// A run that began longer ago and has no end was killed, or is covered by the grace of what is unlisted.
const READING_SECONDS_MAX: f64 = 86_400.0;

/// What of a drill's report counts here.
#[derive(Debug, Deserialize)]
struct Drill {
    outcome: String,
    began: Timestamp,
    backup: Option<BackupId>,
}

/// Every listed backup with what is known of it.
pub(crate) async fn candidates(reader: &Reader, now: Timestamp) -> Result<Vec<Candidate>, RepoError> {
    let backups = reader.backups().await?;
    let in_use = reading(reader, now).await?;
    let mut holds = reader.holds().await?;
    let mut drilled = drilled(reader).await?;
    let known = |backup: repo::BackupDocument| {
        let id = backup.id;
        Candidate { backup, drilled: drilled.remove(&id), held: holds.remove(&id), in_use: in_use.clone(), aside: None }
    };
    Ok(backups.into_iter().map(known).collect())
}

/// The drill or restore that is under way, in words: until it has ended it may read any backup.
async fn reading(reader: &Reader, now: Timestamp) -> Result<Option<String>, RepoError> {
    let is_recent = |name: &RunName| READING.contains(&name.job()) && now.seconds_since(name.began()).abs() <= READING_SECONDS_MAX;
    let from = now.plus_micros(-(READING_SECONDS_MAX * 1e6) as i64);
    let names: Vec<RunName> = reader.run_names_from(from).await?.into_iter().filter(is_recent).collect();
    let runs = reader.runs(&names, &BTreeMap::new()).await?;
    let underway = runs.into_values().find(|run| matches!(run, Run::Begun(_)));
    Ok(underway.map(|run| format!("the {} that began at {}, perhaps", run.job(), run.began())))
}

/// Every listed snapshot of packages with what is known of it.
pub(crate) async fn snapshots(reader: &Reader) -> Result<Vec<SnapshotCandidate>, RepoError> {
    let holds = reader.holds().await?;
    let known = |snapshot: repo::SnapshotDocument| SnapshotCandidate { held: holds.get(&snapshot.id).cloned(), aside: None, snapshot };
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
