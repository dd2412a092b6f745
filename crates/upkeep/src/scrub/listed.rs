//! What is listed, and what ought to be: backups, snapshots of packages, and unlisted snapshots to whose packs listed ones refer.

use super::damage::{Surroundings, UNLISTED};
use super::{Found, Run};
use repo::{BackupDocument, Listed, RepoError, ScrubDamage, SnapshotDocument, Tombstone, backup_folder, listing_of};
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectInfo;
use terms::{BackupId, BackupKind};

/// A manifest that is not listed after so long is none of a backup that is being made: a day.
const UNLISTED_SECONDS_MAX: f64 = 86_400.0;

/// One kind of it.
struct OfKind {
    kind: BackupKind,
    names: Vec<BackupId>,
    listed: BTreeSet<BackupId>,
    /// Those whose document is damaged.
    bad: BTreeSet<BackupId>,
}

impl Run<'_> {
    /// Every listed backup and snapshot. One that was listed and is not, or whose document is damaged, is told of.
    pub(super) async fn listed(&mut self) -> Result<Vec<Listed>, RepoError> {
        let mut found = Vec::new();
        let (backups, of_backups) = self.backups(&mut found).await?;
        let (snapshots, of_snapshots) = self.snapshots(&mut found).await?;
        self.around = Surroundings::new(backups.clone(), snapshots.clone(), self.reader.document().epochs.clone());
        let mut listed: Vec<Listed> = backups.into_iter().map(Listed::Backup).collect();
        let needed: BTreeSet<BackupId> = snapshots.iter().flat_map(|snapshot| &snapshot.needs).copied().collect();
        listed.extend(snapshots.into_iter().map(Listed::Snapshot));
        // Only whoever expires unlists, and says so first.
        match self.reader.tombstones().await {
            Ok(tombstones) => {
                let buried: BTreeMap<_, _> =
                    tombstones.into_iter().map(|(Tombstone { buried, .. }, _)| ((buried.kind(), buried.id()), buried)).collect();
                for own in [&of_backups, &of_snapshots] {
                    let own_buried = buried.keys().filter(|(kind, _)| *kind == Some(own.kind)).map(|(_, id)| *id).collect();
                    self.unlisted(own, &needed, &own_buried, &mut found).await?;
                }
                let is_unlisted = |listed: &Listed| listed.kind() == Some(BackupKind::Packages) && !of_snapshots.listed.contains(&listed.id());
                listed.extend(buried.into_values().filter(|buried| is_unlisted(buried) && needed.contains(&buried.id())));
            }
            // Told of where it lies; until it is read nothing is called lost.
            Err(e) => drop(Found::of("expired".to_owned(), e)?),
        }
        for one in found {
            self.bad(one).await;
        }
        for one in &listed {
            if let Some(kind) = one.kind() {
                self.well(listing_of(kind, one.id()).as_str(), 0);
            }
        }
        Ok(listed)
    }

    async fn backups(&self, found: &mut Vec<Found>) -> Result<(Vec<BackupDocument>, OfKind), RepoError> {
        let kind = BackupKind::Full;
        let (mut listed, mut own) = (Vec::new(), OfKind::new(kind, self.reader.backup_names().await?));
        for id in own.names.clone() {
            own.take(id, self.reader.backup_if_listed(kind, id).await, &mut listed, found)?;
        }
        Ok((listed, own))
    }

    async fn snapshots(&self, found: &mut Vec<Found>) -> Result<(Vec<SnapshotDocument>, OfKind), RepoError> {
        let (mut listed, mut own) = (Vec::new(), OfKind::new(BackupKind::Packages, self.reader.snapshot_names().await?));
        for id in own.names.clone() {
            own.take(id, self.reader.snapshot_if_listed(id).await, &mut listed, found)?;
        }
        Ok((listed, own))
    }

    /// Finds what ought to be listed, and forgets what was let go.
    async fn unlisted(
        &mut self,
        own: &OfKind,
        needed: &BTreeSet<BackupId>,
        buried: &BTreeSet<BackupId>,
        found: &mut Vec<Found>,
    ) -> Result<(), RepoError> {
        let kind = own.kind;
        let expired_since = match (self.reader.expiry().await, self.state.last_run) {
            (Ok(Some((expiry, _))), Some(last)) => expiry.last_run > last.began,
            (Err(e), _) => Found::of("retention.json".to_owned(), e).map(|_| true)?,
            _ => false,
        };
        let is_needed = |id: &BackupId| kind == BackupKind::Packages && needed.contains(id);
        let folder_of = |id: BackupId| backup_folder(kind, id);
        let prefix = format!("{kind}/");
        let seen: BTreeSet<BackupId> = self.state.units.keys().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        let needed = needed.iter().filter(|id| is_needed(id));
        let told: BTreeSet<BackupId> = self.state.damage.iter().filter_map(|damage| unlisted_id(damage, &prefix)).collect();
        for id in seen.iter().chain(&own.names).chain(needed).chain(&told).copied().collect::<BTreeSet<_>>() {
            if own.listed.contains(&id) || own.bad.contains(&id) || buried.contains(&id) {
                continue;
            }
            let was_listed = seen.contains(&id);
            let manifest = self.reader.store().info(&repo::manifest_path(kind, id)).await?;
            let is_old = |info: &ObjectInfo| self.began.seconds_since(info.modified) > UNLISTED_SECONDS_MAX;
            let is_lost = (was_listed && (manifest.is_some() || !expired_since)) || manifest.as_ref().is_some_and(is_old) || is_needed(&id);
            match is_lost {
                true => found.push(Found::unlisted(listing_of(kind, id).to_string(), was_listed || is_needed(&id))),
                // Expiry has removed what never was a backup, as far as anybody knows.
                false if manifest.is_none() && !was_listed => self.well(listing_of(kind, id).as_str(), 0),
                false => drop(self.state.units.remove(&folder_of(id))),
            }
        }
        for id in buried.iter().filter(|id| !is_needed(id)) {
            let folder = folder_of(*id);
            self.state.units.remove(&folder);
            self.state.damage.retain(|damage| !damage.path.starts_with(&format!("{folder}/")));
        }
        Ok(())
    }
}

/// The backup or snapshot below this folder that damage says is not listed.
fn unlisted_id(damage: &ScrubDamage, prefix: &str) -> Option<BackupId> {
    let path = Some(damage.path.as_str()).filter(|_| damage.slug == UNLISTED);
    path?.strip_prefix(prefix)?.strip_suffix("/backup.json")?.parse().ok()
}

impl OfKind {
    fn new(kind: BackupKind, names: Vec<BackupId>) -> Self {
        Self { kind, names, listed: BTreeSet::new(), bad: BTreeSet::new() }
    }

    /// What was read of a document.
    fn take<D>(&mut self, id: BackupId, read: Result<Option<D>, RepoError>, listed: &mut Vec<D>, found: &mut Vec<Found>) -> Result<(), RepoError> {
        match read {
            Ok(Some(document)) => {
                listed.push(document);
                self.listed.insert(id);
            }
            Ok(None) => {}
            Err(e) => {
                let one = Found::of(listing_of(self.kind, id).to_string(), e)?;
                if one.path == listing_of(self.kind, id).as_str() {
                    self.bad.insert(id);
                }
                found.push(one);
            }
        }
        Ok(())
    }
}
