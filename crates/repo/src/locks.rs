//! Which objects must stay locked: all that a listed backup or snapshot needs, and the log.

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
        let mut unread = Vec::new();
        for id in self.backup_names().await? {
            if if_readable(self.backup_if_listed(BackupKind::Full, id).await, &mut unread)?.is_none_or(|found| found.is_some()) {
                prefixes.push(format!("{}/", backup_folder(BackupKind::Full, id)));
            }
        }
        let names = self.snapshot_names().await?;
        let (mut listed, mut needed) = (BTreeSet::new(), BTreeSet::new());
        for id in &names {
            match if_readable(self.snapshot_if_listed(*id).await, &mut unread)? {
                Some(None) => continue,
                Some(Some(snapshot)) => needed.extend(snapshot.needs),
                None => needed.extend(&names),
            }
            listed.insert(*id);
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
        Ok((all, unread))
    }
}

/// What was read; `None` if it says nothing, which is noted.
fn if_readable<T>(read: Result<T, RepoError>, unread: &mut Vec<RepoError>) -> Result<Option<T>, RepoError> {
    match read {
        Err(e) if e.is_unreadable() => {
            unread.push(e);
            Ok(None)
        }
        read => read.map(Some),
    }
}
