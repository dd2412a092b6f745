//! What there is to prove: the units of a repository, each with how long its last proof is ago.

use futures::TryStreamExt;
use repo::{Listed, Reader, RepoError, ScrubUnit, backup_folder};
use std::collections::BTreeMap;
use store::ObjectInfo;
use terms::Timestamp;

/// What is proven as one.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// A backup or a snapshot of packages.
    Listed(Box<Listed>),
    /// Objects of the log whose paths begin so, and how many there are.
    Log { prefix: String, objects: u64 },
}

/// A unit that is there.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) what: What,
    /// When it came, as far as that is known: what was never proven is as old as that.
    pub(super) came: Timestamp,
}

impl Unit {
    /// What is under way first, then what was proven, or came, the longest ago.
    pub(super) fn rank(&self, known: &BTreeMap<String, ScrubUnit>) -> (bool, Timestamp) {
        let known = known.get(&self.name);
        let is_new = known.is_none_or(|unit| unit.began.is_none());
        (is_new, known.and_then(|unit| unit.verified).unwrap_or(self.came))
    }
}

/// The units of these backups and snapshots.
pub(super) fn of_listed(listed: &[Listed]) -> impl Iterator<Item = Unit> + '_ {
    listed.iter().filter_map(|one| {
        let came = match one {
            Listed::Backup(backup) => backup.stop.time,
            Listed::Snapshot(snapshot) => snapshot.ended,
        };
        Some(Unit { name: backup_folder(one.kind()?, one.id()), what: What::Listed(Box::new(one.clone())), came })
    })
}

/// The units of the log and of the ledger, from one listing of all of it; small objects that every run proves go to `small`.
pub(super) async fn of_log(reader: &Reader, small: &mut Vec<ObjectInfo>) -> Result<Vec<Unit>, RepoError> {
    let mut units: BTreeMap<String, (u64, Timestamp)> = BTreeMap::new();
    for folder in ["wal", "runs"] {
        let mut listing = reader.store().list(folder, None);
        while let Some(object) = listing.try_next().await? {
            match prefix_of(object.path.as_str()) {
                Some(prefix) => {
                    let (count, came) = units.entry(prefix.to_owned()).or_insert((0, object.modified));
                    (*count, *came) = (*count + 1, object.modified.min(*came));
                }
                None => small.push(object),
            }
        }
    }
    let unit = |(prefix, (objects, came)): (String, _)| Unit { name: prefix.clone(), what: What::Log { prefix, objects }, came };
    Ok(units.into_iter().map(unit).collect())
}

/// The unit of an object: a month of the ledger, the index of its timeline, or the 4 GiB of log that the first 16 digits of a segment's name name.
fn prefix_of(path: &str) -> Option<&str> {
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    let name_at = slashes.nth(2)? + 1;
    let name = &path[name_at..];
    // `runs/{YYYY}/{MM}/…`: a month of the ledger.
    if path.starts_with("runs/") {
        return Some(&path[..name_at - 1]);
    }
    if name.starts_with("index/") {
        return Some(&path[..name_at + "index".len()]);
    }
    let is_segment = name.len() >= 24 && name.bytes().take(24).all(|b| b.is_ascii_hexdigit());
    is_segment.then(|| &path[..name_at + 16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_is_proven_together() {
        let log = Some("wal/7/00000001/000000010000000A");
        for name in ["000000010000000A000000C3", "000000010000000A000000C3.pieces/0-1-a", "000000010000000A00000000.partial"] {
            assert_eq!(prefix_of(&format!("wal/7/00000001/{name}")), log, "{name}");
        }
        assert_eq!(prefix_of("wal/7/00000001/index/000000010000000A00000001-x"), Some("wal/7/00000001/index"));
        assert_eq!(prefix_of("runs/2026/11/20261122T020000Z-backup.json"), Some("runs/2026/11"));
        for name in ["wal/7/00000002.history", "wal/7/coverage.json"] {
            assert_eq!(prefix_of(name), None, "{name}");
        }
    }
}
