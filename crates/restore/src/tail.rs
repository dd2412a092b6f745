//! The end of a stretch of the log: its last record, its last transaction, and what is no end but another cluster's segment.

use crate::RestoreError;
use crate::log::Log;
use pg::DiskError;
use pg::wal::SegmentHeader;
use repo::WalIndex;
use std::ops::ControlFlow;
use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timestamp};

/// What a stretch of the log ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where the last record begins.
    pub(crate) last_record: Option<Lsn>,
    /// The latest end of a transaction.
    pub(crate) last_end: Option<Timestamp>,
}

/// A segment of another cluster is no end of this one's log. What else can be wrong with one shows when its records are read.
pub(crate) fn refuse_foreign(bytes: &[u8], segment: SegmentName, system_id: SystemId, size: SegmentSize) -> Result<(), RestoreError> {
    match SegmentHeader::read(bytes, &segment.to_string()).and_then(|header| header.check(segment, system_id, size)) {
        Err(DiskError::ForeignSegment { wanted, found, .. }) => Err(RestoreError::Foreign { segment, wanted, found }),
        _ => Ok(()),
    }
}

impl Log<'_> {
    /// The last record that ends at or before `end`, and the latest end of a transaction up to there. The index is asked first; of
    /// the log only the end is read, unless it takes more to see a record, and, with `wants_end`, the end of a transaction.
    pub(crate) async fn tail(
        &self,
        segments: &[SegmentName],
        index: &WalIndex,
        backup_start: Lsn,
        end: Lsn,
        wants_end: bool,
    ) -> Result<Tail, RestoreError> {
        let near = segments.partition_point(|name| name.start(self.size) < end).max(1).min(segments.len());
        let mut back = 1;
        loop {
            let first = near.saturating_sub(back);
            let begin = (first == 0).then_some(backup_start);
            let known = segments[..first].iter().filter_map(|name| index.entry(*name)).filter_map(|entry| entry.max_end).max();
            let mut tail = Tail { last_record: None, last_end: known };
            let walked = self.walk_all(&segments[first..near], begin, |record| {
                if record.end > end {
                    return ControlFlow::Break(());
                }
                tail.last_record = Some(record.start);
                tail.last_end = tail.last_end.max(record.kind.ended_at());
                ControlFlow::Continue(())
            });
            walked.await?;
            if (tail.last_record.is_some() && (tail.last_end.is_some() || !wants_end)) || first == 0 {
                return Ok(tail);
            }
            back *= 2;
        }
    }

    /// Where the log in `segments` truly ends, by reading all of it from `from` on.
    pub(crate) async fn end_by_reading(&self, segments: &[SegmentName], from: Lsn) -> Result<Lsn, RestoreError> {
        Ok(self.walk_all(segments, Some(from), |_| ControlFlow::Continue(())).await?.at)
    }
}
