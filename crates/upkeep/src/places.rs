//! Whether what keeps others from staying is this repository's own. A listing anybody can forge who can write to the store; a manifest
//! nobody can who has no key.

use crate::UpkeepError;
use repo::retention::{Candidate, Reason, RetentionPlan, SnapshotCandidate, SnapshotPlan, SnapshotVerdict};
use repo::{ManifestReader, Reader, RepoError, SnapshotReader, backup_folder};
use terms::{Class, Explain, Timestamp};

/// A clock may be ahead of the one by which expiry goes by so much: five minutes.
const AHEAD_SECONDS_MAX: f64 = 300.0;

/// Looks at whoever has a place.
pub(crate) struct Places<'r> {
    reader: &'r Reader,
    now: Timestamp,
    /// Whether somebody here opens what this repository seals.
    opens: bool,
}

impl<'r> Places<'r> {
    pub(crate) async fn new(reader: &'r Reader, now: Timestamp) -> Result<Self, RepoError> {
        let opens = match reader.digester().await {
            Ok(_) => reader.sealed_only(),
            // Only whoever looks on opens nothing: a writer is not even opened without.
            Err(e @ RepoError::NoRecipient { .. }) if e.class() != Class::Transient => false,
            Err(e) => return Err(e),
        };
        Ok(Self { reader, now, opens })
    }

    /// Whether listings are believed, because the repository is encrypted and nothing of it opens here.
    pub(crate) fn are_believed(&self) -> bool {
        self.reader.sealed_only() && !self.opens
    }

    /// Refuses a plan in which a backup has a place that is not proven to be one of this repository.
    pub(crate) async fn prove_backups(&self, plan: &RetentionPlan, candidates: &[Candidate]) -> Result<(), UpkeepError> {
        // Who is held, or in use, stays beside the others and takes nobody's place.
        let is_place = |reason: &Reason| !matches!(reason, Reason::Held(_) | Reason::InUse(_));
        let mut unproven = Vec::new();
        for verdict in plan.verdicts.iter().filter(|verdict| verdict.kept.iter().any(is_place)) {
            let Some(backup) = candidates.iter().map(|candidate| &candidate.backup).find(|backup| backup.id == verdict.backup) else { continue };
            let why = match self.ahead(backup.start.time.max(backup.stop.time)) {
                None if self.opens => doubt(ManifestReader::open_for(self.reader, backup).await.err())?,
                why => why,
            };
            unproven.extend(why.map(|why| (backup_folder(backup.kind, backup.id), why)));
        }
        refuse(unproven)
    }

    /// The same of snapshots of packages.
    pub(crate) async fn prove_snapshots(&self, plan: &SnapshotPlan, candidates: &[SnapshotCandidate]) -> Result<(), UpkeepError> {
        // All that lie within the window stay beside each other; the one before it has a place.
        let is_place = |verdict: &SnapshotVerdict, reason: &Reason| match reason {
            Reason::Held(_) | Reason::OtherSource => false,
            Reason::Window(from) => verdict.at <= *from,
            _ => true,
        };
        let mut unproven = Vec::new();
        for verdict in plan.verdicts.iter().filter(|verdict| verdict.kept.iter().any(|reason| is_place(verdict, reason))) {
            let found = candidates.iter().map(|candidate| &candidate.snapshot).find(|snapshot| snapshot.id == verdict.snapshot);
            let Some(snapshot) = found else { continue };
            let why = match self.ahead(snapshot.began.max(snapshot.ended)) {
                None if self.opens => doubt(SnapshotReader::open(self.reader, snapshot).await.err())?,
                why => why,
            };
            unproven.extend(why.map(|why| (backup_folder(snapshot.kind, snapshot.id), why)));
        }
        refuse(unproven)
    }

    /// Why it was not made at this time.
    fn ahead(&self, latest: Timestamp) -> Option<String> {
        let is_ahead = latest.seconds_since(self.now) > AHEAD_SECONDS_MAX;
        is_ahead.then(|| format!("it says that it was made at {latest}, and it is {}", self.now))
    }
}

/// What a manifest that did not open says against its backup. What the store or the keeper of a key did not answer says nothing.
fn doubt(trouble: Option<RepoError>) -> Result<Option<String>, RepoError> {
    match trouble {
        Some(e) if matches!(e, RepoError::Store(_)) || e.class() == Class::Transient => Err(e),
        trouble => Ok(trouble.map(|e| format!("{e}: {}", e.detail().trim_end_matches('.')))),
    }
}

fn refuse(unproven: Vec<(String, String)>) -> Result<(), UpkeepError> {
    match unproven.is_empty() {
        true => Ok(()),
        false => Err(UpkeepError::Unproven { listed: unproven }),
    }
}
