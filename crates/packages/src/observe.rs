//! How far the second copy of the packages is behind: what an alert is judged by.

use crate::{PackagesError, Settings};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use repo::{Reader, SnapshotObject, SnapshotReader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use store::{Item, Site};
use terms::{Clock, Timestamp};

/// Of so many versions that are behind the store is asked why.
const ASKED_MAX: usize = 1000;

/// What one side holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SideFacts {
    pub address: String,
    /// Keys that are there now, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Versions and removals in all; of a snapshot the same as `objects`.
    pub versions: u64,
    pub newest: Option<Timestamp>,
}

/// How the second copy stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PackagesFacts {
    /// `native` or `managed`.
    pub mode: String,
    pub at: Option<Timestamp>,
    /// Now less the oldest version of the primary that the copy lacks; 0 when it lacks none.
    pub lag_seconds: f64,
    /// Versions that the copy lacks, and their bytes.
    pub behind: u64,
    pub behind_bytes: u64,
    pub oldest_behind: Option<Timestamp>,
    /// Of these, what the store says that it gave up.
    pub failed: u64,
    /// Some keys of these, for people.
    pub failed_keys: Vec<String>,
    pub primary: SideFacts,
    pub copy: SideFacts,
    /// Up to here the copy has everything.
    pub complete_until: Option<Timestamp>,
    /// When the newest snapshot began; managed only.
    pub newest_snapshot: Option<Timestamp>,
}

/// What the copy lacks.
pub struct Observed {
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
    facts.complete_until = Some(facts.oldest_behind.unwrap_or(now).min(now));
    Ok(Observed { facts, failed })
}

impl Observed {
    /// Writes what the store gave up again, so that it is queued anew; how many.
    pub async fn requeue(&self, settings: &Settings) -> Result<u64, PackagesError> {
        let primary = Site::open(&settings.primary.url, &settings.primary.options)?;
        let mut again = 0;
        // What was overwritten since is no longer what anybody asks for.
        for item in self.failed.iter().filter(|item| item.is_latest && !item.is_removal) {
            primary.write_again(item).await?;
            again += 1;
        }
        Ok(again)
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
    fn lacks(&mut self, bytes: u64, modified: Timestamp) {
        (self.behind, self.behind_bytes) = (self.behind + 1, self.behind_bytes + bytes);
        self.oldest_behind = Some(self.oldest_behind.map_or(modified, |oldest| oldest.min(modified)));
    }
}

/// All versions of one key after the other.
async fn group(of: &mut BoxStream<'static, Result<Item, PackagesError>>, head: &mut Option<Item>) -> Result<Vec<Item>, PackagesError> {
    let mut found: Vec<Item> = head.take().into_iter().collect();
    while let Some(item) = of.try_next().await? {
        if found.first().is_some_and(|first| first.key != item.key) {
            *head = Some(item);
            break;
        }
        found.push(item);
    }
    Ok(found)
}

async fn compare_versions(primary: &Site, copy: &Site, facts: &mut PackagesFacts) -> Result<Vec<Item>, PackagesError> {
    for site in [primary, copy] {
        if !site.keeps_versions().await? {
            return Err(PackagesError::NoVersions { address: site.address() });
        }
    }
    let mut ours = primary.versions().map_err(PackagesError::from).boxed();
    let mut theirs = copy.versions().map_err(PackagesError::from).boxed();
    let (mut our_head, mut their_head, mut asked) = (None, None, Vec::new());
    let mut there = group(&mut theirs, &mut their_head).await?;
    loop {
        let here = group(&mut ours, &mut our_head).await?;
        let key = here.first().map(|item| item.key.clone());
        // What only the copy has: removed for good at the primary.
        while there.first().is_some_and(|item| key.as_ref().is_none_or(|key| item.key < *key)) {
            there.iter().for_each(|item| facts.copy.count(item));
            there = group(&mut theirs, &mut their_head).await?;
        }
        if here.is_empty() {
            return Ok(asked);
        }
        let is_there = there.first().map(|item| &item.key) == key.as_ref();
        let matching: &[Item] = if is_there { &there } else { &[] };
        let ids: BTreeSet<&Option<String>> = matching.iter().map(|item| &item.id).collect();
        let bodies: BTreeSet<(&str, u64, bool)> = matching.iter().map(|item| (item.etag.as_str(), item.bytes, item.is_removal)).collect();
        for item in &here {
            facts.primary.count(item);
            // Stores keep a version's id; where one does not, the same bytes will do.
            if !ids.contains(&item.id) && !bodies.contains(&(item.etag.as_str(), item.bytes, item.is_removal)) {
                facts.lacks(item.bytes, item.modified);
                if asked.len() < ASKED_MAX {
                    asked.push(item.clone());
                }
            }
        }
    }
}

async fn compare_snapshot(primary: &Site, reader: &Reader, facts: &mut PackagesFacts) -> Result<(), PackagesError> {
    let snapshots = reader.snapshots().await?;
    let newest = snapshots.iter().rev().find(|snapshot| snapshot.source == primary.address());
    facts.copy.address = reader.address();
    let mut lines = match newest {
        Some(newest) => {
            (facts.copy.objects, facts.copy.versions, facts.copy.bytes) = (newest.objects, newest.objects, newest.bytes);
            facts.newest_snapshot = Some(newest.began);
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
                head = reader.next().await?;
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
