//! Where a transaction ended. The index does not know transactions, so the log is read, the newest part of it first.

use crate::RestoreError;
use crate::log::Met;
use crate::plan::Planner;
use pg::wal::{Ended, RecordKind};
use repo::reach;
use repo::{BackupDocument, WalIndex};
use std::ops::ControlFlow;
use terms::{Lsn, RecoveryTarget, Timestamp};

/// The record that ended a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct XidEnd {
    pub(crate) start: Lsn,
    /// The position behind it.
    pub(crate) end: Lsn,
    pub(crate) at: Option<Timestamp>,
    pub(crate) is_committed: bool,
}

impl XidEnd {
    /// What the reader should know of it.
    pub(crate) fn note(&self, target: &RecoveryTarget) -> String {
        let how = if self.is_committed { "committed" } else { "rolled back" };
        let at = self.at.map_or_else(String::new, |at| format!(" on {at}"));
        let start = self.start;
        let (xid, stops) = match target {
            RecoveryTarget::BeforeXid(xid) => {
                (RecoveryTarget::Xid(*xid), "before that record, so what ended before it is in, and neither it nor what ended later is")
            }
            other => (other.clone(), "behind that record, so what ended before it is in, and what ended later is not"),
        };
        format!("{xid} was {how}{at}, at {start}: recovery stops {stops}.")
    }
}

impl Planner<'_> {
    /// Looks for the end of a transaction in what these backups reach, the newest first. PostgreSQL compares 32 bits only
    /// (`recoveryStopsAfter`, src/backend/access/transam/xlogrecovery.c): numbers come back after four thousand million transactions, and the
    /// latest is meant.
    pub(crate) async fn end_of_xid(&self, xid: u32, newest_first: &[&BackupDocument]) -> Result<XidEnd, RestoreError> {
        let proof = self.known.proof(&self.history);
        let unread = WalIndex::default();
        let mut looked_from = u64::MAX;
        // Where something may have been that could not be seen.
        let mut unclear = None;
        for backup in newest_first {
            let stretch = reach::stretch(&self.history, &self.known.view, backup.start.lsn, proof);
            let segments: Vec<_> = stretch.segments.iter().copied().filter(|name| name.number(self.log.size) <= looked_from).collect();
            looked_from = backup.start.lsn.bytes() / self.log.size.bytes();
            let last = segments.last().map_or(backup.start.lsn, |name| name.end(self.log.size));
            let mut found = None;
            let look = self.log.look(
                &segments,
                &unread,
                Some(backup.start.lsn),
                |_| false,
                |met| {
                    match met {
                        Met::Record(record) => match record.ended() {
                            Ended::Xid(ended) if ended == xid => {
                                let is_committed = matches!(record.kind, RecordKind::Commit { .. } | RecordKind::CommitPrepared { .. });
                                found = Some(XidEnd { start: record.start, end: record.end, at: record.kind.ended_at(), is_committed });
                                return ControlFlow::Break(());
                            }
                            Ended::Unknown => {
                                unclear = unclear.take().or(Some(self.cut(record.start, last)));
                            }
                            Ended::Xid(_) | Ended::Nothing => {}
                        },
                        // The log of the last segment ends somewhere.
                        Met::End(at) if segments.last().is_some_and(|name| at < name.start(self.log.size)) => {
                            unclear = unclear.take().or(Some(self.cut(at, last)));
                        }
                        Met::Unreadable(error) => unclear = unclear.take().or(Some(error)),
                        Met::End(_) | Met::Entry(_) => {}
                    }
                    ControlFlow::Continue(())
                },
            );
            look.await?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        match unclear {
            Some(error) => Err(error),
            None => Err(self
                .unreachable(format!(
                    "No transaction {xid} ended in the stored WAL. A subtransaction that was committed has no end of its own: give the number of the transaction that it was part of."
                ))
                .await?),
        }
    }

    /// The log breaks off at `at`, although it is stored up to `promised`.
    fn cut(&self, at: Lsn, promised: Lsn) -> RestoreError {
        let segment = self.history.segment(at.bytes() / self.log.size.bytes(), self.log.size);
        RestoreError::Cut { target: self.wish.target.to_string(), at, segment, promised }
    }
}
