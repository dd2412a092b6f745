//! How far the second copy of the packages is behind: what an alert is judged by.

use crate::{PackagesError, Settings};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use repo::{Reader, SnapshotObject, SnapshotReader};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{Item, Site};
use terms::{Clock, Timestamp};

/// Of so many versions that are behind the store is asked why.
const ASKED_MAX: usize = 1000;

/// A job begins when it is its turn, and a listing is a few minutes old.
const SLACK_SECONDS: f64 = 600.0;

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
    /// How long it took.
    pub snapshot_seconds: Option<f64>,
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

/// What came of writing again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Requeued {
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

    fn lacks(&mut self, bytes: u64, modified: Timestamp) {
        (self.behind, self.behind_bytes) = (self.behind + 1, self.behind_bytes + bytes);
        self.oldest_behind = Some(self.oldest_behind.map_or(modified, |oldest| oldest.min(modified)));
    }
}

/// Up to when the copy has everything that the primary keeps; `None` when it lacks nothing.
pub(crate) async fn lacks_from(primary: &Site, copy: &Site) -> Result<Option<Timestamp>, PackagesError> {
    let mut facts = PackagesFacts::default();
    compare_versions(primary, copy, &mut facts).await?;
    Ok(facts.oldest_behind)
}

/// All versions of one key after the other.
pub(crate) async fn group(of: &mut BoxStream<'_, Result<Item, PackagesError>>, head: &mut Option<Item>) -> Result<Vec<Item>, PackagesError> {
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
        here.iter().for_each(|item| facts.primary.count(item));
        for item in lacking(&here, matching) {
            facts.lacks(item.bytes, item.modified);
            if asked.len() < ASKED_MAX {
                asked.push(item.clone());
            }
        }
    }
}

/// The versions of a key that the copy lacks. Stores keep a version's id; where none does, each version there stands for one of the same
/// bytes here, the oldest first.
fn lacking<'a>(here: &'a [Item], there: &[Item]) -> Vec<&'a Item> {
    // Every bucket calls what it had before it kept versions so: the name alone says nothing.
    let name = |item: &Item| item.id.clone().filter(|id| id != "null");
    let body = |item: &Item| (item.etag.clone(), item.bytes, item.is_removal);
    let by_id: BTreeMap<String, &Item> = there.iter().filter_map(|item| Some((name(item)?, item))).collect();
    let same_id = |item: &Item| name(item).and_then(|id| by_id.get(&id)).is_some_and(|of| (of.bytes, of.is_removal) == (item.bytes, item.is_removal));
    let keeps_ids = here.iter().any(same_id);
    let mut bodies: BTreeMap<(String, u64, bool), usize> = BTreeMap::new();
    // With ids, only what has none is left to its bytes.
    for item in there.iter().filter(|item| !keeps_ids || name(item).is_none()) {
        *bodies.entry(body(item)).or_default() += 1;
    }
    let mut lacking: Vec<&Item> = Vec::new();
    for item in here.iter().rev() {
        if same_id(item) {
            continue;
        }
        let may_match = !keeps_ids || name(item).is_none();
        match bodies.get_mut(&body(item)).filter(|left| may_match && **left > 0) {
            Some(left) => *left -= 1,
            None => lacking.push(item),
        }
    }
    lacking
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

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, etag: &str, second: i64) -> Item {
        let modified = Timestamp::from_unix_micros(second * 1_000_000);
        let bytes = etag.len() as u64;
        Item { key: "k".into(), id: Some(id.into()), bytes, modified, etag: etag.into(), is_latest: false, is_removal: etag.is_empty() }
    }

    fn times(lacking: &[&Item]) -> Vec<i64> {
        lacking.iter().map(|item| item.modified.unix_micros() / 1_000_000).collect()
    }

    #[test]
    fn a_version_of_the_copy_stands_for_one_of_the_primarys_and_not_for_two() {
        // Put, removed, put, removed, and A-B-A: the copy has the first half, under ids of its own.
        let here = [item("4", "", 4), item("3", "a", 3), item("2", "", 2), item("1", "a", 1)];
        assert_eq!(times(&lacking(&here, &[item("y", "", 2), item("x", "a", 1)])), [3, 4]);
        let here = [item("3", "a", 3), item("2", "b", 2), item("1", "a", 1)];
        assert_eq!(times(&lacking(&here, &[item("y", "b", 2), item("x", "a", 1)])), [3]);
        // Where ids are kept the bytes prove nothing.
        assert_eq!(times(&lacking(&here, &[item("2", "b", 2), item("1", "a", 1)])), [3]);
        assert_eq!(times(&lacking(&here, &[item("2", "b", 2), item("9", "a", 3), item("1", "a", 1)])), [3]);
        assert_eq!(times(&lacking(&here, &here)), [0; 0]);
    }

    #[test]
    fn snapshots_are_late_only_when_the_next_one_should_have_been_there() {
        let facts = |mode: &str| PackagesFacts { mode: mode.into(), snapshot_seconds: Some(120.0), ..PackagesFacts::default() };
        assert_eq!(facts("managed").usual_seconds(Duration::from_secs(3600)), 4320.0);
        assert_eq!(facts("native").usual_seconds(Duration::from_secs(3600)), 0.0);
    }

    #[test]
    fn what_has_no_id_of_its_own_is_known_by_its_bytes_only() {
        assert_eq!(times(&lacking(&[item("null", "new", 2)], &[item("null", "old", 1)])), [2]);
        assert_eq!(times(&lacking(&[item("null", "same", 2)], &[item("null", "same", 1)])), [0; 0]);
        assert_eq!(times(&lacking(&[item("1", "longer", 2)], &[item("1", "short", 2)])), [2], "an id with another size is another version");
    }
}
