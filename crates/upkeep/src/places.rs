//! Whether what keeps others from staying is this repository's own. A listing anybody can forge who can write to the store; a manifest
//! nobody can who has no key.

use repo::retention::{Candidate, Reason, RetentionPlan, SnapshotCandidate, SnapshotPlan, SnapshotVerdict};
use repo::{BackupDocument, ManifestReader, Reader, RepoError, SnapshotDocument, SnapshotReader, backup_folder};
use std::collections::{BTreeMap, BTreeSet};
use terms::{BackupId, Class, Explain, Timestamp};

/// Looks at whoever has a place.
pub(crate) struct Places<'r> {
    reader: &'r Reader,
    now: Timestamp,
    /// Whether somebody here opens what this repository seals.
    opens: bool,
    /// By folder, what was looked at once: why it is not believed; `None`: it is.
    judged: BTreeMap<String, Option<String>>,
}

impl<'r> Places<'r> {
    pub(crate) async fn new(reader: &'r Reader, now: Timestamp) -> Result<Self, RepoError> {
        let opens = match reader.digester().await {
            Ok(_) => reader.sealed_only(),
            // Only whoever looks on opens nothing: a writer is not even opened without.
            Err(e @ RepoError::NoRecipient { .. }) if e.class() != Class::Transient => false,
            Err(e) => return Err(e),
        };
        Ok(Self { reader, now, opens, judged: BTreeMap::new() })
    }

    /// Whether listings are believed, because the repository is encrypted and nothing of it opens here.
    pub(crate) fn are_believed(&self) -> bool {
        self.reader.sealed_only() && !self.opens
    }

    /// What stands aside, by folder, and why.
    pub(crate) fn unproven(self) -> BTreeMap<String, String> {
        self.judged.into_iter().filter_map(|(folder, why)| Some((folder, why?))).collect()
    }

    /// The plan in which each backup that has a place is proven to be one of this repository. Who is not stands aside, and the others are
    /// planned for anew.
    pub(crate) async fn prove_backups(
        &mut self,
        candidates: &mut [Candidate],
        plan: impl Fn(&[Candidate]) -> RetentionPlan,
    ) -> Result<RetentionPlan, RepoError> {
        // Who is held, or in use, stays beside the others and takes nobody's place.
        let is_place = |reason: &Reason| !matches!(reason, Reason::Held(_) | Reason::InUse(_) | Reason::Unproven(_));
        loop {
            let made = plan(candidates);
            let placed = made.verdicts.iter().filter(|verdict| verdict.kept.iter().any(is_place));
            let placed: BTreeSet<BackupId> = placed.map(|verdict| verdict.backup).collect();
            let mut is_proven = true;
            for candidate in candidates.iter_mut().filter(|candidate| placed.contains(&candidate.backup.id)) {
                candidate.aside = self.doubt_backup(&candidate.backup).await?;
                is_proven &= candidate.aside.is_none();
            }
            if is_proven {
                return Ok(made);
            }
        }
    }

    /// The same of snapshots of packages.
    pub(crate) async fn prove_snapshots(
        &mut self,
        candidates: &mut [SnapshotCandidate],
        plan: impl Fn(&[SnapshotCandidate]) -> SnapshotPlan,
    ) -> Result<SnapshotPlan, RepoError> {
        // All that lie within the window stay beside each other; the one before it has a place.
        let is_place = |verdict: &SnapshotVerdict, reason: &Reason| match reason {
            Reason::Held(_) | Reason::OtherSource | Reason::Unproven(_) => false,
            Reason::Window(from) => verdict.at <= *from,
            _ => true,
        };
        loop {
            let made = plan(candidates);
            let placed = made.verdicts.iter().filter(|verdict| verdict.kept.iter().any(|reason| is_place(verdict, reason)));
            let placed: BTreeSet<BackupId> = placed.map(|verdict| verdict.snapshot).collect();
            let mut is_proven = true;
            for candidate in candidates.iter_mut().filter(|candidate| placed.contains(&candidate.snapshot.id)) {
                candidate.aside = self.doubt_snapshot(&candidate.snapshot).await?;
                is_proven &= candidate.aside.is_none();
            }
            if is_proven {
                return Ok(made);
            }
        }
    }

    async fn doubt_backup(&mut self, backup: &BackupDocument) -> Result<Option<String>, RepoError> {
        let (folder, latest) = (backup_folder(backup.kind, backup.id), backup.start.time.max(backup.stop.time));
        self.judge(folder, latest, ManifestReader::open_for(self.reader, backup)).await
    }

    async fn doubt_snapshot(&mut self, snapshot: &SnapshotDocument) -> Result<Option<String>, RepoError> {
        let (folder, latest) = (backup_folder(snapshot.kind, snapshot.id), snapshot.began.max(snapshot.ended));
        self.judge(folder, latest, SnapshotReader::open(self.reader, snapshot)).await
    }

    /// Why what lies in this folder, made at `latest`, is not believed. Its list is opened once, and only where its time has come.
    async fn judge<T>(
        &mut self,
        folder: String,
        latest: Timestamp,
        opened: impl Future<Output = Result<T, RepoError>>,
    ) -> Result<Option<String>, RepoError> {
        if let Some(known) = self.judged.get(&folder) {
            return Ok(known.clone());
        }
        let why = match self.ahead(latest) {
            None if self.opens => doubt(opened.await.err())?,
            why => why,
        };
        self.judged.insert(folder, why.clone());
        Ok(why)
    }

    /// Why it was not made at this time.
    fn ahead(&self, latest: Timestamp) -> Option<String> {
        latest.is_ahead_of(self.now).then(|| format!("it says that it was made at {latest}, and it is {}", self.now))
    }
}

/// What a manifest that did not open says against its backup. What the store or the keeper of a key did not answer says nothing.
fn doubt(trouble: Option<RepoError>) -> Result<Option<String>, RepoError> {
    match trouble {
        Some(e) if matches!(e, RepoError::Store(_)) || e.class() == Class::Transient => Err(e),
        trouble => Ok(trouble.map(|e| format!("{e}: {}", e.detail().trim_end_matches('.')))),
    }
}
