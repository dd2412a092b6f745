//! Which objects must stay locked: all that a listed backup or snapshot needs, and the log.

use crate::layout::{CONFIGURATIONS, backup_folder, is_replaced, repository};
use crate::{Reader, RepoError};
use std::collections::BTreeSet;
use store::{Extended, ObjectLock, Sight, Versions, extend_locks};
use terms::{BackupId, BackupKind, Timestamp};

impl Reader {
    /// Extends the locks that end within half of their time, of everything that a listed backup needs to be restored to any instant:
    /// itself, the keys, the log, the configurations; and of every listed snapshot, with the packs of others that it refers to. What is no
    /// longer listed, and nothing refers to, is left to become free.
    pub async fn extend_locks(&self, door: &dyn Versions, lock: &ObjectLock, now: Timestamp) -> Result<Extended, RepoError> {
        let mut prefixes = vec![repository().to_string(), "keys/".into(), format!("{CONFIGURATIONS}/"), "wal/".into()];
        prefixes.extend(self.backups().await?.iter().map(|backup| format!("{}/", backup_folder(backup.kind, backup.id))));
        let snapshots = self.snapshots().await?;
        let listed: BTreeSet<BackupId> = snapshots.iter().map(|snapshot| snapshot.id).collect();
        let folder = |id: &BackupId| backup_folder(BackupKind::Packages, *id);
        prefixes.extend(listed.iter().map(|id| format!("{}/", folder(id))));
        // Of one that was unlisted its packs alone: its listing was removed on purpose.
        let needed: BTreeSet<BackupId> = snapshots.iter().flat_map(|snapshot| &snapshot.needs).copied().collect();
        prefixes.extend(needed.difference(&listed).map(|id| format!("{}/data/", folder(id))));
        let mut all = Extended::default();
        for prefix in prefixes {
            let found = extend_locks(door, &prefix, Sight::Oldest { is_replaced }, lock, now).await?;
            all.objects += found.objects;
            all.extended += found.extended;
            // Of the log expiry removes; of a listed backup nobody does.
            all.removed += if prefix.starts_with("wal/") || prefix.starts_with("keys/") { 0 } else { found.removed };
        }
        Ok(all)
    }
}
