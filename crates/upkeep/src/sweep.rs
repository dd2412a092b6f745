//! Removes the objects of what was unlisted long enough ago.

use crate::UpkeepError;
use crate::expire::Grace;
use futures::TryStreamExt;
use repo::retention::RetentionPlan;
use repo::{KeyPurpose, Reader, Tombstone, WalWaiting, backup_folder, is_piece, key_path, listing_of, segment_of, tombstone};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use store::{ObjectInfo, Remove};
use terms::{BackupId, BackupKind, SegmentName};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    pub objects: u64,
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

/// The objects of each backup whose tombstone is old enough, and at last the tombstone.
pub(crate) async fn backups(reader: &Reader, remover: &dyn Remove, grace: Grace) -> Result<Swept, UpkeepError> {
    let mut swept = Swept::default();
    let buried = reader.tombstones().await?;
    let ripe: Vec<&Tombstone> = buried.iter().filter(|(_, written)| grace.is_over(*written)).map(|(tombstone, _)| tombstone).collect();
    if ripe.is_empty() {
        return Ok(swept);
    }
    // Whatever the tombstone says: what is listed, or held, stays. Somebody may have written it who must not.
    let held = reader.holds().await?;
    let listed = reader.backups().await?;
    let is_listed = |id: BackupId| listed.iter().any(|backup| backup.id == id);
    // A tombstone is not sealed: what it says is no reason to remove a key of another purpose.
    let keys: BTreeSet<String> = reader.keys().await?.iter().filter(|key| key.purpose == KeyPurpose::Backup).map(|key| key.id.to_string()).collect();
    for Tombstone { backup, .. } in ripe {
        // Snapshots of packages are not expired: later ones need them, and nobody but a forger buries one.
        if backup.kind != BackupKind::Full {
            continue;
        }
        if is_listed(backup.id) || held.contains_key(&backup.id) {
            continue;
        }
        swept_folder(remover, backup.kind, backup.id, &mut swept).await?;
        // The key that nothing else was sealed with.
        let others = buried.iter().map(|(other, _)| &other.backup).filter(|other| other.id != backup.id).chain(&listed);
        if let Some(key) = backup.key
            && others.filter_map(|other| other.key).all(|other| other != key)
            && keys.contains(&key.to_string())
            && let Some(object) = remover.info(&key_path(key)).await?
        {
            swept.take(remover, &object).await?;
        }
        remover.remove(&tombstone(backup.id)).await?;
    }
    Ok(swept)
}

/// Folders of attempts that never became a backup, and in which nothing was written for the grace. One with a manifest may have been a
/// backup, whose listing somebody removed: it is whole perhaps, and stays.
pub(crate) async fn attempts(reader: &Reader, remover: &dyn Remove, grace: Grace) -> Result<Swept, UpkeepError> {
    let mut swept = Swept::default();
    // What a later snapshot refers to stays, whether its own listing is there or not.
    let needed: BTreeSet<BackupId> = reader.snapshots().await?.into_iter().flat_map(|snapshot| snapshot.needs).collect();
    for kind in [BackupKind::Full, BackupKind::Packages] {
        attempts_of(kind, &needed, reader, remover, grace, &mut swept).await?;
    }
    Ok(swept)
}

async fn attempts_of(
    kind: BackupKind,
    needed: &BTreeSet<BackupId>,
    reader: &Reader,
    remover: &dyn Remove,
    grace: Grace,
    swept: &mut Swept,
) -> Result<(), UpkeepError> {
    let buried: BTreeSet<BackupId> = reader.tombstones().await?.iter().map(|(tombstone, _)| tombstone.backup.id).collect();
    for name in remover.folders(&kind.to_string()).await? {
        let Some(id) = name.parse::<BackupId>().ok() else { continue };
        // A tombstone speaks of backups only.
        if needed.contains(&id) || (kind == BackupKind::Full && buried.contains(&id)) {
            continue;
        }
        let folder = backup_folder(kind, id);
        let objects: Vec<ObjectInfo> = remover.list(&folder, None).try_collect().await?;
        if objects.iter().any(|object| object.path.name() == "manifest" || !grace.is_over(object.modified)) {
            continue;
        }
        // Looked at last: it may have been listed meanwhile.
        if remover.info(&listing_of(kind, id)).await?.is_none() {
            for object in &objects {
                swept.take(remover, object).await?;
            }
        }
    }
    Ok(())
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
