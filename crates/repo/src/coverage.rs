//! How far the log is known complete: the coverage mark, and those that closed earlier epochs.

use crate::{Reader, RepoError, Writer, document, layout};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use store::ObjectPath;
use terms::{Lsn, SystemId, Timeline, Timestamp};

/// `coverage.json`: everything up to `lsn` on `timeline` is in the repository, and at `time` (the server's clock)
/// the server had promised nobody anything beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// 1 so far; a document with a larger number is refused.
    pub format: u32,
    /// The cluster's, as initdb made it.
    pub system_id: SystemId,
    /// The mark speaks of this one only.
    pub timeline: Timeline,
    /// Everything before it is in the repository.
    pub lsn: Lsn,
    /// By the server's clock; what it had promised by then lies before `lsn`.
    pub time: Timestamp,
    /// Up to here the timeline is stored; perhaps beyond `lsn`.
    pub stored: Lsn,
}

impl Coverage {
    /// A coverage mark in the present format; nothing beyond `lsn` is known to be stored.
    pub fn new(system_id: SystemId, timeline: Timeline, lsn: Lsn, time: Timestamp) -> Self {
        Self { format: document::FORMAT, system_id, timeline, lsn, time, stored: lsn }
    }

    /// What two marks of a cluster say together; `None` when `present` says it all already. A receiver that wakes up on a timeline
    /// that was left has nothing to say about the present one.
    fn added_to(&self, present: &Self) -> Option<Self> {
        match self.timeline.cmp(&present.timeline) {
            Ordering::Less => None,
            Ordering::Greater => Some(self.clone()),
            Ordering::Equal => {
                let (lsn, time) = (self.lsn, self.time).max((present.lsn, present.time));
                let both = Self { lsn, time, stored: self.stored.max(present.stored), ..self.clone() };
                (both != *present).then_some(both)
            }
        }
    }
}

/// How often a mark that others move at the same moment is read again.
const TRIES: u32 = 10;

/// Lets whoever was faster finish what it does: at once again would be too early, again and again.
async fn give_way(tries: u32) {
    if tries > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1 << tries)).await;
    }
}

impl Writer {
    /// Moves the coverage mark forward; an older mark, one of an older timeline or one of an earlier epoch never replaces a newer
    /// one. The last mark of an earlier epoch is kept beside that epoch's log.
    pub async fn cover(&self, coverage: &Coverage) -> Result<(), RepoError> {
        let path = layout::coverage();
        for tries in 0..TRIES {
            give_way(tries).await;
            let info = self.store.info(&path).await?;
            let mut next = coverage.clone();
            if info.is_some() {
                let present: Coverage = document::read(&path, &self.store.get(&path).await?)?;
                if present.system_id != coverage.system_id {
                    let document = self.repository_now().await?.0;
                    if document.rank(present.system_id) > document.rank(coverage.system_id) {
                        return self.close_coverage(coverage).await;
                    }
                    self.close_coverage(&present).await?;
                } else {
                    match coverage.added_to(&present) {
                        Some(both) => next = both,
                        None => return Ok(()),
                    }
                }
            }
            let body = document::write(&next)?;
            if self.store.replace(&path, body, info.as_ref().map(|i| &i.version)).await?.is_some() {
                return Ok(());
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }

    /// Moves forward the mark of an epoch that is over.
    async fn close_coverage(&self, coverage: &Coverage) -> Result<(), RepoError> {
        let path = layout::closed_coverage(coverage.system_id);
        for tries in 0..TRIES {
            give_way(tries).await;
            let info = self.store.info(&path).await?;
            let next = match info.is_some() {
                true => coverage.added_to(&document::read(&path, &self.store.get(&path).await?)?),
                false => Some(coverage.clone()),
            };
            let Some(next) = next else { return Ok(()) };
            if self.store.replace(&path, document::write(&next)?, info.as_ref().map(|i| &i.version)).await?.is_some() {
                return Ok(());
            }
        }
        Err(RepoError::Contended { path: path.to_string() })
    }
}

impl Reader {
    /// How far the log of this cluster is known complete, when a receiver has said so.
    pub async fn coverage(&self, system_id: SystemId) -> Result<Option<Coverage>, RepoError> {
        // The present mark first: what replaces it is written beside the log before.
        match self.mark(layout::coverage()).await?.filter(|mark| mark.system_id == system_id) {
            Some(mark) => Ok(Some(mark)),
            None => Ok(self.mark(layout::closed_coverage(system_id)).await?.filter(|mark| mark.system_id == system_id)),
        }
    }

    async fn mark(&self, path: ObjectPath) -> Result<Option<Coverage>, RepoError> {
        match self.store.get(&path).await {
            Ok(bytes) => document::read(&path, &bytes).map(Some),
            Err(store::StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
