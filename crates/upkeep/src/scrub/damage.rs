//! What is wrong with an object, what it makes unreachable, and the next step.

use super::words;
use repo::{BackupDocument, Epoch, RepoError, ScrubDamage, SnapshotDocument, segment_of};
use seal::SealError;
use store::{ObjectPath, StoreError};
use terms::{BackupId, Explain, SegmentName, SegmentSize, SystemId, Timestamp};

/// The slug of a gap in the log.
pub(super) const GAP: &str = "wal-gap";

/// The slug of what ought to be listed and is not.
pub(super) const UNLISTED: &str = "backup-unlisted";

/// The slug of damage in the repository of the snapshots, where they have one of their own.
pub(super) const APART: &str = "apart-damaged";

/// The slug of what lies in an archive of the store's.
const ARCHIVED: &str = "store-archived";

/// An object that is not as it must be.
#[derive(Debug, Clone)]
pub struct Found {
    /// Of the object; where batches of an index are missing its folder.
    pub path: String,
    /// A stable word, such as `object-missing`.
    pub slug: String,
    /// In a sentence or two.
    pub why: String,
    /// What cannot be restored because of it, and the next step, where whoever found it knows better.
    pub told: Option<(String, String)>,
    /// Files of which it holds something.
    pub(super) holding: String,
    /// Another object holds the same.
    pub(super) is_covered: bool,
}

impl Found {
    fn new(path: String, slug: &str, why: impl Into<String>) -> Self {
        Self { path, slug: slug.to_owned(), why: why.into(), told: None, holding: String::new(), is_covered: false }
    }

    /// A gap in the log, as an audit tells it.
    pub fn gap(path: String, why: String, unreachable: String, next: String) -> Self {
        Self { told: Some((unreachable, next)), ..Self::new(path, GAP, why) }
    }

    /// Damage that stands in another repository.
    pub fn apart(address: &str, damage: ScrubDamage) -> Self {
        let ScrubDamage { path, why, unreachable, next, .. } = damage;
        Self { told: Some((unreachable, next)), ..Self::new(format!("{address}/{path}"), APART, why) }
    }

    /// What this error says of the object; the error itself where it speaks of the store, the keys or us.
    pub(super) fn of(path: String, error: RepoError) -> Result<Self, RepoError> {
        let path = match &error {
            RepoError::Object { source: SealError::NoKey { .. } | SealError::Recipient { .. } | SealError::Library { .. }, .. } => return Err(error),
            // Perhaps an object that this one needs.
            RepoError::Object { path, .. } | RepoError::Document { path, .. } | RepoError::Newer { path, .. } => path.clone(),
            RepoError::Store(StoreError::Missing { path, .. } | StoreError::Truncated { path, .. } | StoreError::Archived { path, .. }) => {
                path.clone()
            }
            RepoError::Manifest { .. } => path,
            _ => return Err(error),
        };
        Ok(Self::new(path, error.slug(), words(&error)))
    }

    pub(super) fn missing(path: String) -> Self {
        Self::new(path, "object-missing", "It is not there any more.")
    }
    pub(super) fn changed(path: String) -> Self {
        Self::new(path, "object-changed", "It holds other bytes than when it was first read.")
    }
    pub(super) fn unlisted(path: String, was_listed: bool) -> Self {
        let why = if was_listed { "The backup was listed, and no expiry unlisted it." } else { "A manifest is there, and no backup is listed." };
        Self::new(path, UNLISTED, why)
    }
    pub(super) fn fewer(path: String, now: u64, most: u64) -> Self {
        Self::new(path, "index-missing", format!("{now} batches of the index are there, {most} were."))
    }
    pub(super) fn holding(self, holding: String) -> Self {
        Self { holding, ..self }
    }
}

/// What is there, to tell consequences by.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    backups: Vec<BackupDocument>,
    snapshots: Vec<SnapshotDocument>,
    epochs: Vec<Epoch>,
}

const BRING_BACK: &str = "Bring it back (aws s3api restore-object, then copy it over itself with --storage-class STANDARD), and remove the lifecycle rule that \
    moved it: bowline check names it.";
const PUT_BACK: &str = "Put the object back from a copy of the bucket: a second copy, an earlier version.";

impl Surroundings {
    pub(super) fn new(backups: Vec<BackupDocument>, snapshots: Vec<SnapshotDocument>, epochs: Vec<Epoch>) -> Self {
        Self { backups, snapshots, epochs }
    }

    pub(super) fn segment_size(&self, system: SystemId) -> Option<SegmentSize> {
        self.backups.iter().find(|backup| backup.system_id == system).map(|backup| backup.segment_bytes)
    }

    pub(super) fn damage(&self, found: Found, since: Timestamp) -> ScrubDamage {
        let (unreachable, mut next) = found.told.clone().unwrap_or_else(|| self.consequences(&found));
        if found.slug == ARCHIVED {
            next = BRING_BACK.to_owned();
        }
        ScrubDamage { path: found.path, slug: found.slug, why: found.why, unreachable, next, since }
    }

    fn consequences(&self, found: &Found) -> (String, String) {
        let path = found.path.as_str();
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["full", id, rest @ ..] => {
                let id = id.parse::<BackupId>().ok();
                let what = match rest {
                    ["data", _] if !found.holding.is_empty() => format!("it holds parts of {}", found.holding),
                    _ => "all of it".to_owned(),
                };
                let name = id.map_or_else(|| parts[1].to_owned(), |id| id.to_string());
                (format!("Backup {name}: {what}. {}", self.served_instead(id)), self.next_for_backup(found))
            }
            ["packages", id, rest @ ..] => self.of_snapshot(id, rest, found),
            ["keys", name] => {
                let key = name.trim_end_matches(".json");
                let mut sealed: Vec<String> =
                    self.backups.iter().filter(|b| b.key.is_some_and(|id| id.to_string() == key)).map(|b| format!("backup {}", b.id)).collect();
                let of_snapshots = self.snapshots.iter().filter(|s| s.key.is_some_and(|id| id.to_string() == key));
                sealed.extend(of_snapshots.map(|snapshot| format!("snapshot {} of packages", snapshot.id)));
                let of_epoch = |epoch: &&Epoch| epoch.wal_key.is_some_and(|id| id.to_string() == key);
                sealed.extend(self.epochs.iter().filter(of_epoch).map(|epoch| format!("the WAL of cluster {}", epoch.system_id)));
                let what = if sealed.is_empty() { "whatever was sealed with it".to_owned() } else { sealed.join(", ") };
                (
                    format!("Nothing opens any more of: {what}."),
                    format!("{PUT_BACK} Every copy of keys/ will do; without it make a new backup now: bowline backup."),
                )
            }
            ["wal", system, _, "index", ..] => {
                let _ = system;
                (
                    "Nothing: the index can be made again from the segments.".into(),
                    "bowline wal audit --rebuild reads the segments and stores it again.".into(),
                )
            }
            ["wal", _, name] if name.ends_with(".history") => (
                "Instants on that timeline: nothing says where it begins.".into(),
                format!("{PUT_BACK} The server's pg_wal has the file, too: bowline wal push PATH."),
            ),
            ["wal", system, ..] => match ObjectPath::new(path).ok().and_then(|path| segment_of(&path)) {
                Some(_) if found.is_covered => {
                    ("Nothing: its segment is stored whole.".into(), "bowline expire removes it with the other pieces of that segment.".into())
                }
                Some(segment) => self.of_segment(system.parse().ok(), segment),
                None => ("Nothing that is restored.".into(), PUT_BACK.into()),
            },
            _ => {
                let next = format!("{PUT_BACK} If it was removed or changed on purpose: bowline scrub --forget {path}");
                ("Nothing that is restored.".into(), next)
            }
        }
    }

    /// Later snapshots refer to what an earlier one stored.
    fn of_snapshot(&self, id: &str, rest: &[&str], found: &Found) -> (String, String) {
        let what = match rest {
            ["data", _] if !found.holding.is_empty() => format!("its packs hold parts of {}", found.holding),
            ["data", _] => "a pack of it".to_owned(),
            _ => "all of it".to_owned(),
        };
        let is_pack = matches!(rest, ["data", _]);
        let later: Vec<String> =
            self.snapshots.iter().filter(|s| s.needs.iter().any(|need| need.to_string() == id)).map(|s| s.id.to_string()).collect();
        let also = match later.as_slice() {
            [first, .., last] if is_pack => format!(" {} later snapshots, from {first} to {last}, may refer to it, too.", later.len()),
            [one] if is_pack => format!(" Snapshot {one} may refer to it, too."),
            _ => String::new(),
        };
        let next = match (found.slug.as_str(), is_pack) {
            (UNLISTED, _) => self.next_for_backup(found),
            (_, true) => format!(
                "{PUT_BACK} What the bucket itself still has is stored anew once it is written there again (the same bytes will do) and bowline packages snapshot has run."
            ),
            (_, false) => format!("{PUT_BACK} Until then bowline packages snapshot makes a new one; the one before it serves earlier instants."),
        };
        (format!("Snapshot {id} of packages: {what}.{also}"), next)
    }

    fn next_for_backup(&self, found: &Found) -> String {
        match found.slug.as_str() {
            UNLISTED => format!(
                "{PUT_BACK} If it never was a backup there is nothing to do: bowline expire removes it a week after it first saw it so. If it was one and is not wanted, remove its folder, then bowline scrub --forget {}",
                found.path
            ),
            _ => format!("{PUT_BACK} Until then make a new backup (bowline backup) and hold the one before it (bowline hold)."),
        }
    }

    /// From which backup the instants after this one can be had.
    fn served_instead(&self, id: Option<BackupId>) -> String {
        let own = self.backups.iter().find(|backup| Some(backup.id) == id);
        let older = |backup: &&BackupDocument| Some(backup.id) < id && own.is_none_or(|own| own.system_id == backup.system_id);
        match self.backups.iter().rev().find(older) {
            Some(older) => format!("Later instants are still reached from backup {}, by replaying more WAL.", older.id),
            None => "No older backup reaches the instants after it.".to_owned(),
        }
    }

    fn of_segment(&self, system: Option<SystemId>, segment: SegmentName) -> (String, String) {
        let own: Vec<&BackupDocument> = self.backups.iter().filter(|backup| Some(backup.system_id) == system).collect();
        let Some(size) = own.first().map(|backup| backup.segment_bytes) else {
            return ("Nothing: no backup of that cluster is listed.".into(), PUT_BACK.into());
        };
        let (from, to) = (segment.start(size), segment.end(size));
        let broken: Vec<String> =
            own.iter().filter(|b| b.timeline == segment.timeline() && b.start.lsn < to && b.stop.lsn > from).map(|b| b.id.to_string()).collect();
        let before = own.iter().rev().find(|backup| backup.stop.lsn <= from);
        let after = own.iter().find(|backup| backup.start.lsn >= to);
        let mut said = match (before, after) {
            (None, None) if broken.is_empty() => "Instants after it".to_owned(),
            (Some(_) | None, Some(after)) => format!("Instants from WAL position {from} up to backup {} ({})", after.id, after.stop.time),
            (Some(before), None) => format!("Instants from WAL position {from} on, by replay from backup {}", before.id),
            (None, None) => format!("Instants from WAL position {from} on"),
        };
        if !broken.is_empty() {
            said.push_str(&format!("; backups that cannot be restored at all: {}", broken.join(", ")));
        }
        (
            format!("{said}."),
            format!("{PUT_BACK} The server or a standby may have {segment} in pg_wal. Else bowline backup protects what comes from now on."),
        )
    }
}
