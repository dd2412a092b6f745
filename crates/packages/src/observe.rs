//! How far the second copy of the packages is behind: what an alert is judged by.

use crate::compare::{self, beside, lacking};
use crate::{PackagesError, Settings};
use futures::stream::TryStreamExt;
use repo::{Reader, SnapshotObject, SnapshotReader};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{Item, Site};
use terms::{Clock, Timestamp};

/// Of so many versions that are behind the store is asked why.
pub(crate) const ASKED_MAX: usize = 1000;

/// A job begins when it is its turn, and a listing is a few minutes old.
const SLACK_SECONDS: f64 = 600.0;

/// What one side holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SideFacts {
    /// `s3://bucket/prefix` or `file:///folder`; of snapshots that of the repository.
    pub address: String,
    /// Keys that are there now, and their bytes.
    pub objects: u64,
    /// Of the keys that are there now.
    pub bytes: u64,
    /// Versions and removals in all; of a snapshot the same as `objects`.
    pub versions: u64,
    /// When the newest version or removal was written, by the store's clock; `None` when there is nothing.
    pub newest: Option<Timestamp>,
}

/// How the second copy stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PackagesFacts {
    /// `native` or `managed`.
    pub mode: String,
    /// Before anything was listed; `None` when nothing was yet.
    pub at: Option<Timestamp>,
    /// Now less the oldest version of the primary that the copy lacks; 0 when it lacks none.
    pub lag_seconds: f64,
    /// Versions that the copy lacks, and their bytes.
    pub behind: u64,
    /// Of these versions, as the primary lists them.
    pub behind_bytes: u64,
    /// When the oldest version that the copy lacks was written, by the clock of the primary's store; `None` when it lacks none.
    pub oldest_behind: Option<Timestamp>,
    /// Of these, what the store says that it gave up.
    pub failed: u64,
    /// Some keys of these, for people.
    pub failed_keys: Vec<String>,
    /// The application's bucket.
    pub primary: SideFacts,
    /// The replica; or what the newest snapshot in the repository holds.
    pub copy: SideFacts,
    /// Up to here the copy has everything.
    pub complete_until: Option<Timestamp>,
    /// When the newest snapshot began; managed only.
    pub newest_snapshot: Option<Timestamp>,
    /// How long it took.
    pub snapshot_seconds: Option<f64>,
}

/// What the copy lacks.
pub struct Observed {
    /// How far behind it is, and how much.
    pub facts: PackagesFacts,
    failed: Vec<Item>,
}

/// Compares primary and copy, in bounded memory: both are listed once, which costs a request for each thousand versions.
pub async fn observe(settings: &Settings, snapshots: Option<&Reader>, clock: &dyn Clock) -> Result<PackagesFacts, PackagesError> {
    Ok(look(settings, snapshots, clock).await?.facts)
}

/// The same, with what can be queued again.
pub async fn look(settings: &Settings, snapshots: Option<&Reader>, clock: &dyn Clock) -> Result<Observed, PackagesError> {
    let primary = Site::open(&settings.primary.url, &settings.primary.options)?;
    // Before anything is listed: whatever comes later is not missing.
    let now = clock.now();
    let mut facts = PackagesFacts { at: Some(now), ..PackagesFacts::default() };
    facts.primary.address = primary.address();
    let mut failed = Vec::new();
    match (&settings.replica, snapshots) {
        (Some(replica), _) => {
            let copy = Site::open(&replica.url, &replica.options)?;
            (facts.mode, facts.copy.address) = ("native".to_owned(), copy.address());
            let asked = compare_versions(&primary, &copy, &mut facts).await?;
            for item in asked {
                if primary.facts(&item).await?.and_then(|facts| facts.replication).as_deref() == Some("FAILED") {
                    facts.failed += 1;
                    if facts.failed_keys.len() < 10 {
                        facts.failed_keys.push(item.key.clone());
                    }
                    failed.push(item);
                }
            }
        }
        (None, Some(reader)) => {
            facts.mode = "managed".to_owned();
            compare_snapshot(&primary, reader, &mut facts).await?;
        }
        (None, None) => return Err(PackagesError::NoSource),
    }
    facts.lag_seconds = facts.oldest_behind.map_or(0.0, |oldest| now.seconds_since(oldest).max(0.0));
    // What came after a snapshot and was overwritten since is in neither.
    let known = facts.newest_snapshot.filter(|_| facts.mode == "managed").unwrap_or(now);
    facts.complete_until = Some(facts.oldest_behind.unwrap_or(known).min(known).min(now));
    Ok(Observed { facts, failed })
}

/// What came of writing again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Requeued {
    /// How many the store accepted.
    pub again: u64,
    /// Overwritten or removed since they were listed: left alone.
    pub overtaken: u64,
    /// Key and why.
    pub failed: Vec<String>,
}

impl Observed {
    /// Writes what the store gave up again, so that it is queued anew. What fails for one keeps no other from it.
    pub async fn requeue(&self, settings: &Settings) -> Result<Requeued, PackagesError> {
        let primary = Site::open(&settings.primary.url, &settings.primary.options)?;
        let mut requeued = Requeued::default();
        // What was overwritten since is no longer what anybody asks for.
        for item in self.failed.iter().filter(|item| item.is_latest && !item.is_removal) {
            match primary.write_again(item).await {
                Ok(true) => requeued.again += 1,
                Ok(false) => requeued.overtaken += 1,
                Err(error) => requeued.failed.push(format!("{}: {}", item.key, terms::Explain::in_a_line(&error))),
            }
        }
        Ok(requeued)
    }
}

impl SideFacts {
    fn count(&mut self, item: &Item) {
        self.versions += 1;
        self.newest = self.newest.max(Some(item.modified));
        if item.is_latest && !item.is_removal {
            (self.objects, self.bytes) = (self.objects + 1, self.bytes + item.bytes);
        }
    }
}

impl PackagesFacts {
    /// What the copy may be behind while all goes as it should: an object waits for the next snapshot, and for it to be made.
    pub fn usual_seconds(&self, every: Duration) -> f64 {
        match self.mode.as_str() {
            "managed" => every.as_secs_f64() + self.snapshot_seconds.unwrap_or_default() + SLACK_SECONDS,
            _ => 0.0,
        }
    }

    /// Counts what there is of a key on both sides.
    pub(crate) fn count(&mut self, here: &[Item], there: &[Item]) {
        here.iter().for_each(|item| self.primary.count(item));
        there.iter().for_each(|item| self.copy.count(item));
    }

    fn lacks(&mut self, bytes: u64, modified: Timestamp) {
        (self.behind, self.behind_bytes) = (self.behind + 1, self.behind_bytes + bytes);
        self.oldest_behind = Some(self.oldest_behind.map_or(modified, |oldest| oldest.min(modified)));
    }
}

async fn compare_versions(primary: &Site, copy: &Site, facts: &mut PackagesFacts) -> Result<Vec<Item>, PackagesError> {
    compare::both_keep_versions(primary, copy).await?;
    let mut all = beside(primary.versions(), copy.versions());
    let mut asked = Vec::new();
    while let Some((here, there)) = all.try_next().await? {
        facts.count(&here, &there);
        for item in lacking(&here, &there) {
            facts.lacks(item.bytes, item.modified);
            if asked.len() < ASKED_MAX {
                asked.push(item.clone());
            }
        }
    }
    Ok(asked)
}

async fn compare_snapshot(primary: &Site, reader: &Reader, facts: &mut PackagesFacts) -> Result<(), PackagesError> {
    let snapshots = reader.snapshots().await?;
    let newest = snapshots.iter().rev().find(|snapshot| snapshot.source == primary.address());
    facts.copy.address = reader.address();
    let mut lines = match newest {
        Some(newest) => {
            (facts.copy.objects, facts.copy.versions, facts.copy.bytes) = (newest.objects, newest.objects, newest.bytes);
            facts.newest_snapshot = Some(newest.began);
            facts.snapshot_seconds = Some(newest.ended.seconds_since(newest.began).max(0.0));
            Some(SnapshotReader::open(reader, newest).await?)
        }
        None => None,
    };
    let mut head: Option<SnapshotObject> = None;
    let mut items = primary.current();
    while let Some(item) = items.try_next().await? {
        facts.primary.count(&item);
        if let Some(reader) = &mut lines {
            while head.as_ref().is_none_or(|known| known.key < item.key) {
                head = reader.next_present().await?;
                if let Some(known) = &head {
                    facts.copy.newest = facts.copy.newest.max(Some(known.modified));
                } else {
                    lines = None;
                    break;
                }
            }
        }
        let has_it =
            head.as_ref().is_some_and(|known| known.key == item.key && (known.etag.as_str(), known.size) == (item.etag.as_str(), item.bytes));
        if !has_it {
            facts.lacks(item.bytes, item.modified);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_late_only_when_the_next_one_should_have_been_there() {
        let facts = |mode: &str| PackagesFacts { mode: mode.into(), snapshot_seconds: Some(120.0), ..PackagesFacts::default() };
        assert_eq!(facts("managed").usual_seconds(Duration::from_secs(3600)), 4320.0);
        assert_eq!(facts("native").usual_seconds(Duration::from_secs(3600)), 0.0);
    }
}
