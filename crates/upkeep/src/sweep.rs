//! Removes the objects of what was unlisted long enough ago.

use crate::UpkeepError;
use crate::expire::Grace;
use futures::TryStreamExt;
use repo::retention::RetentionPlan;
use repo::{KeyPurpose, Listed, Reader, RepoError, Tombstone, WalWaiting, backup_folder, is_piece, key_path, listing_of, segment_of, tombstone};
use seal::{HEADER_BYTES, KeyId, OpenObject};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use store::{ObjectInfo, Remove, StoreError};
use terms::{BackupId, BackupKind, SegmentName, Timestamp};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Without listings and tombstones.
    pub objects: u64,
    /// As they were stored.
    pub bytes: u64,
}

impl Swept {
    async fn take(&mut self, remover: &dyn Remove, object: &ObjectInfo) -> Result<(), UpkeepError> {
        remover.remove(&object.path).await?;
        self.objects += 1;
        self.bytes += object.bytes;
        Ok(())
    }
}

/// The objects of each backup, or of each snapshot, whose tombstone is old enough, and at last the tombstone.
pub(crate) async fn buried(kind: BackupKind, reader: &Reader, remover: &dyn Remove, grace: Grace) -> Result<Swept, UpkeepError> {
    let mut swept = Swept::default();
    let all: Vec<(Tombstone, Timestamp)> = reader.tombstones().await?;
    let is_ripe = |(tombstone, written): &&(Tombstone, Timestamp)| tombstone.buried.kind() == Some(kind) && grace.is_over(*written);
    let ripe: Vec<&Listed> = all.iter().filter(is_ripe).map(|(tombstone, _)| &tombstone.buried).collect();
    if ripe.is_empty() {
        return Ok(swept);
    }
    // Whatever the tombstone says: what is listed, or held, stays, and the packs that a listed snapshot refers to. Somebody may have
    // written it who must not.
    let mut listed = Named::listed(reader).await?;
    // A restore that reads an unlisted snapshot must be able to end: until its own grace is over it needs what it refers to.
    let waiting = all.iter().filter(|(_, written)| !grace.is_over(*written)).filter_map(|(tombstone, _)| match &tombstone.buried {
        Listed::Snapshot(snapshot) => Some(&snapshot.needs),
        Listed::Backup(_) => None,
    });
    listed.needed.extend(waiting.flatten());
    let held = reader.holds().await?;
    // A tombstone is not sealed: what it says is no reason to remove a key of another purpose.
    let keys: BTreeSet<String> = reader.keys().await?.iter().filter(|key| key.purpose == purpose(kind)).map(|key| key.id.to_string()).collect();
    for buried in ripe {
        let id = buried.id();
        if listed.ids.contains(&(kind, id)) || held.contains_key(&id) || (kind == BackupKind::Packages && listed.needed.contains(&id)) {
            continue;
        }
        swept_folder(remover, kind, id, &mut swept).await?;
        // The key that nothing else was sealed with.
        let mut others = all.iter().map(|(other, _)| &other.buried).filter(|other| (other.kind(), other.id()) != (Some(kind), id));
        if let Some(key) = buried.key()
            && !listed.keys.contains(&key)
            && others.all(|other| other.key() != Some(key))
            && keys.contains(&key.to_string())
            && let Some(object) = remover.info(&key_path(key)).await?
        {
            swept.take(remover, &object).await?;
        }
        remover.remove(&tombstone(kind, id)).await?;
    }
    Ok(swept)
}

/// What the listed backups and snapshots are, and name.
struct Named {
    ids: BTreeSet<(BackupKind, BackupId)>,
    keys: BTreeSet<KeyId>,
    /// Snapshots to whose packs others refer.
    needed: BTreeSet<BackupId>,
}

impl Named {
    async fn listed(reader: &Reader) -> Result<Self, UpkeepError> {
        let (backups, snapshots) = (reader.backups().await?, reader.snapshots().await?);
        let of_backups = backups.iter().map(|backup| ((BackupKind::Full, backup.id), backup.key));
        let of_snapshots = snapshots.iter().map(|snapshot| ((BackupKind::Packages, snapshot.id), snapshot.key));
        let (ids, keys): (BTreeSet<_>, Vec<Option<KeyId>>) = of_backups.chain(of_snapshots).unzip();
        let needed = snapshots.into_iter().flat_map(|snapshot| snapshot.needs).collect();
        Ok(Self { ids, keys: keys.into_iter().flatten().collect(), needed })
    }
}

/// What the data keys of this kind are for.
fn purpose(kind: BackupKind) -> KeyPurpose {
    match kind {
        BackupKind::Full => KeyPurpose::Backup,
        BackupKind::Packages => KeyPurpose::Packages,
    }
}

/// Folders of attempts that never became a backup or a snapshot, and in which nothing was written for the first of these graces.
///
/// One with a manifest may have been one whose listing somebody removed: it is whole perhaps. It goes when runs have seen it so for the
/// second grace (`seen`: since when, by folder), and never where a scrub knew it listed: then people are told, and it is theirs to mend. Gives those that wait for that, too.
pub(crate) async fn attempts(
    kinds: &[BackupKind],
    reader: &Reader,
    remover: &dyn Remove,
    [grace, of_manifests]: [Grace; 2],
    seen: &mut BTreeMap<String, Timestamp>,
) -> Result<(Swept, BTreeMap<String, Timestamp>), UpkeepError> {
    let mut swept = Swept::default();
    // What a later snapshot refers to stays, whether its own listing is there or not.
    let needed: BTreeSet<BackupId> = reader.snapshots().await?.into_iter().flat_map(|snapshot| snapshot.needs).collect();
    // What was buried goes by its tombstone.
    let buried: BTreeSet<_> = reader.tombstones().await?.iter().map(|(tombstone, _)| (tombstone.buried.kind(), tombstone.buried.id())).collect();
    let scrubbed = match reader.scrub_state().await {
        Ok(found) => Some(found.map(|(state, _)| state.units).unwrap_or_default()),
        Err(RepoError::Store(e)) => return Err(e.into()),
        // It is damaged: nobody knows what was listed, and whatever has a manifest stays.
        Err(_) => None,
    };
    let was_listed = |folder: &str| scrubbed.as_ref().is_none_or(|units| units.contains_key(folder));
    let (mut still, mut going) = (BTreeMap::new(), BTreeMap::new());
    for kind in kinds {
        for id in folders(*kind, remover).await? {
            if (*kind == BackupKind::Packages && needed.contains(&id)) || buried.contains(&(Some(*kind), id)) {
                continue;
            }
            let (folder, listing) = (backup_folder(*kind, id), listing_of(*kind, id));
            let objects: Vec<ObjectInfo> = remover.list(&folder, None).try_collect().await?;
            if objects.iter().any(|object| object.path == listing) {
                continue;
            }
            if objects.iter().any(|object| object.path.name() == "manifest") {
                let since = seen.get(&folder).copied().unwrap_or(grace.now);
                still.insert(folder.clone(), since);
                if was_listed(&folder) {
                    continue;
                }
                if !of_manifests.is_over(since) {
                    going.insert(folder, since);
                    continue;
                }
            }
            if objects.iter().any(|object| !grace.is_over(object.modified)) {
                continue;
            }
            // Looked at last: it may have been listed meanwhile.
            if remover.info(&listing).await?.is_none() {
                // The manifest, the last of them, goes last: what a killed run leaves is gone on with.
                for object in &objects {
                    swept.take(remover, object).await?;
                }
            }
            still.remove(&folder);
        }
    }
    *seen = still;
    Ok((swept, going))
}

async fn folders(kind: BackupKind, remover: &dyn Remove) -> Result<Vec<BackupId>, UpkeepError> {
    Ok(remover.folders(&kind.to_string()).await?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The keys of attempts that are gone: made longer than the grace ago, and named by nothing that is there.
pub(crate) async fn keys(kinds: &[BackupKind], reader: &Reader, remover: &dyn Remove, grace: Grace) -> Result<Swept, UpkeepError> {
    let mut swept = Swept::default();
    let purposes: Vec<KeyPurpose> = kinds.iter().map(|kind| purpose(*kind)).collect();
    let mut going = BTreeMap::new();
    for key in reader.keys().await?.iter().filter(|key| purposes.contains(&key.purpose)) {
        // A change of its recipients makes it younger: then it waits once more.
        if let Some(object) = remover.info(&key_path(key.id)).await?.filter(|object| grace.is_over(object.modified)) {
            going.insert(key.id, object);
        }
    }
    let listed = Named::listed(reader).await?;
    going.retain(|id, _| !listed.keys.contains(id));
    if going.is_empty() {
        return Ok(swept);
    }
    for (tombstone, _) in reader.tombstones().await? {
        tombstone.buried.key().map(|key| going.remove(&key));
    }
    // What lies in a folder that is not listed names its key itself: an attempt that is under way, or one whose listing somebody removed.
    for kind in [BackupKind::Full, BackupKind::Packages] {
        for id in folders(kind, remover).await?.into_iter().filter(|id| !listed.ids.contains(&(kind, *id))) {
            let objects: Vec<ObjectInfo> = remover.list(&backup_folder(kind, id), None).try_collect().await?;
            for object in objects {
                match remover.get_range(&object.path, 0..object.bytes.min(HEADER_BYTES as u64)).await {
                    Ok(header) => drop(OpenObject::key_named(&header).map(|key| going.remove(&key))),
                    // An attempt that gave up meanwhile.
                    Err(StoreError::Missing { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
    for object in going.values() {
        swept.take(remover, object).await?;
    }
    Ok(swept)
}

async fn swept_folder(remover: &dyn Remove, kind: BackupKind, id: BackupId, swept: &mut Swept) -> Result<(), UpkeepError> {
    let objects: Vec<ObjectInfo> = remover.list(&backup_folder(kind, id), None).try_collect().await?;
    for object in &objects {
        swept.take(remover, object).await?;
    }
    Ok(())
}

/// The log that neither this plan keeps nor the one that was made when the grace began, and that is older than the grace itself.
pub(crate) async fn wal(remover: &dyn Remove, plan: &RetentionPlan, waiting: &WalWaiting, grace: Grace) -> Result<Swept, UpkeepError> {
    let mut swept = Swept::default();
    for (system_id, size) in &waiting.sizes {
        let folder = format!("wal/{system_id}");
        let mut going = Vec::new();
        let mut objects = remover.list(&folder, None);
        while let Some(object) = objects.try_next().await? {
            let Some(segment) = segment_of(&object.path) else { continue };
            let (from, to, timeline) = (segment.start(*size), segment.end(*size), segment.timeline());
            let is_kept = plan.keeps_wal(*system_id, timeline, from, to)
                || waiting.kept.iter().any(|kept| kept.covers(*system_id, timeline, from, to))
                || !grace.is_over(object.modified);
            if !is_kept {
                going.push(object);
            }
        }
        drop(objects);
        for object in &going {
            swept.take(remover, object).await?;
        }
    }
    Ok(swept)
}

/// The pieces of segments that are stored whole, that the index knows to make sense, and whose object is the one that was indexed.
pub(crate) async fn pieces(reader: &Reader, remover: &dyn Remove, grace: Grace) -> Result<Swept, UpkeepError> {
    let mut swept = Swept::default();
    for epoch in &reader.document().epochs {
        let (mut whole, mut old) = (BTreeMap::new(), Vec::new());
        let folder = format!("wal/{}", epoch.system_id);
        let mut objects = remover.list(&folder, None);
        while let Some(object) = objects.try_next().await? {
            match segment_of(&object.path) {
                Some(segment) if is_piece(&object.path) && grace.is_over(object.modified) => old.push((segment, object)),
                Some(segment) if object.path.name() == segment.to_string() => drop(whole.insert(segment, object.bytes)),
                _ => {}
            }
        }
        drop(objects);
        old.retain(|(segment, _)| whole.contains_key(segment));
        let segments: Vec<SegmentName> = old.iter().map(|(segment, _)| *segment).collect();
        let index = reader.index_of(epoch.system_id, &segments).await?;
        let is_proven = |segment: &SegmentName| {
            index.entry(*segment).is_some_and(|entry| entry.damaged.is_none() && whole.get(segment) == Some(&entry.bytes_stored))
        };
        for (_, object) in old.iter().filter(|(segment, _)| is_proven(segment)) {
            swept.take(remover, object).await?;
        }
    }
    Ok(swept)
}
