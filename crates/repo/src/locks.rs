//! Which objects must stay locked: all that a listed backup or snapshot needs, and the log.

use crate::catalog::readable;
use crate::layout::{CONFIGURATIONS, backup_folder, is_replaced, repository};
use crate::{Reader, RepoError};
use std::collections::BTreeSet;
use store::{Extended, ObjectLock, Sight, Versions, extend_locks};
use terms::{BackupId, BackupKind, Timestamp};

impl Reader {
    /// Extends the locks that end within half of their time, of everything that a listed backup needs to be restored to any instant:
    /// itself, the keys, the log, the configurations; and of every listed snapshot, with the packs of others that it refers to. What is no
    /// longer listed, and nothing refers to, is left to become free. Beside that, each listing that cannot be read: its own folder is locked
    /// all the same, and of snapshots every one, since nobody knows what it refers to. One bad listing must not let the others' locks end.
    pub async fn extend_locks(&self, door: &dyn Versions, lock: &ObjectLock, now: Timestamp) -> Result<(Extended, Vec<RepoError>), RepoError> {
        let mut prefixes = vec![repository().to_string(), "keys/".into(), format!("{CONFIGURATIONS}/"), "wal/".into()];
        let (backups, unread) = readable(self.backup_names().await?, |id| self.backup_if_listed(BackupKind::Full, id)).await?;
        prefixes.extend(backups.keys().chain(unread.keys()).map(|id| format!("{}/", backup_folder(BackupKind::Full, *id))));
        let names = self.snapshot_names().await?;
        let (snapshots, unread_snapshots) = readable(names.clone(), |id| self.snapshot_if_listed(id)).await?;
        let listed: BTreeSet<BackupId> = snapshots.keys().chain(unread_snapshots.keys()).copied().collect();
        let mut needed: BTreeSet<BackupId> = snapshots.values().flat_map(|snapshot| &snapshot.needs).copied().collect();
        if !unread_snapshots.is_empty() {
            needed.extend(names);
        }
        let folder = |id: &BackupId| backup_folder(BackupKind::Packages, *id);
        prefixes.extend(listed.iter().map(|id| format!("{}/", folder(id))));
        // Of one that was unlisted its packs alone: its listing was removed on purpose.
        prefixes.extend(needed.difference(&listed).map(|id| format!("{}/data/", folder(id))));
        let mut all = Extended::default();
        for prefix in prefixes {
            let found = extend_locks(door, &prefix, Sight::Oldest { is_replaced }, lock, now).await?;
            all.objects += found.objects;
            all.extended += found.extended;
            // Of the log expiry removes; of a listed backup nobody does.
            all.removed += if prefix.starts_with("wal/") || prefix.starts_with("keys/") { 0 } else { found.removed };
        }
        Ok((all, unread.into_values().chain(unread_snapshots.into_values()).collect()))
    }
}
