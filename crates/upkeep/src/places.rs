//! Whether each backup that keeps others from staying is this repository's own. Its listing anybody can forge who can write to the
//! store; its manifest nobody can who has no key.

use crate::UpkeepError;
use repo::retention::{Candidate, Reason, RetentionPlan};
use repo::{BackupDocument, ManifestReader, Reader, RepoError};
use terms::{Class, Explain, Timestamp};

/// A server's clock may be ahead of the one by which expiry goes by so much: five minutes.
const AHEAD_SECONDS_MAX: f64 = 300.0;

/// Refuses a plan in which a backup has a place that is not proven to be one. Returns whether listings were believed, because the
/// repository is encrypted and nothing of it opens here.
pub(crate) async fn prove(reader: &Reader, plan: &RetentionPlan, candidates: &[Candidate], now: Timestamp) -> Result<bool, UpkeepError> {
    // Who is held, or in use, stays beside the others and takes nobody's place.
    let is_place = |reason: &Reason| !matches!(reason, Reason::Held(_) | Reason::InUse(_));
    let opens = opens(reader).await?;
    let mut backups = Vec::new();
    for verdict in plan.verdicts.iter().filter(|verdict| verdict.kept.iter().any(is_place)) {
        let Some(candidate) = candidates.iter().find(|candidate| candidate.backup.id == verdict.backup) else { continue };
        if let Some(why) = doubt(reader, &candidate.backup, opens, now).await? {
            backups.push((verdict.backup, why));
        }
    }
    if !backups.is_empty() {
        return Err(UpkeepError::Unproven { backups });
    }
    Ok(reader.sealed_only() && !opens)
}

/// Whether somebody here opens what this repository seals. Only whoever looks on does not: a writer is not even opened without.
async fn opens(reader: &Reader) -> Result<bool, RepoError> {
    match reader.digester().await {
        Ok(_) => Ok(reader.sealed_only()),
        Err(e @ RepoError::NoRecipient { .. }) if e.class() != Class::Transient => Ok(false),
        Err(e) => Err(e),
    }
}

/// Why this is no backup of this repository, as far as can be told.
async fn doubt(reader: &Reader, backup: &BackupDocument, opens: bool, now: Timestamp) -> Result<Option<String>, RepoError> {
    let latest = backup.start.time.max(backup.stop.time);
    if latest.seconds_since(now) > AHEAD_SECONDS_MAX {
        return Ok(Some(format!("it says that it was made at {latest}, and it is {now}")));
    }
    if !opens {
        return Ok(None);
    }
    match ManifestReader::open_for(reader, backup).await {
        Ok(_) => Ok(None),
        // What the store or the keeper of a key did not answer says nothing of the backup.
        Err(e) if matches!(e, RepoError::Store(_)) || e.class() == Class::Transient => Err(e),
        Err(e) => Ok(Some(format!("{e}: {}", e.detail().trim_end_matches('.')))),
    }
}
