//! A time lies between two ends of transactions, and what is replayed of the log between them must not be felt.

use crate::RestoreError;
use crate::log::{Log, Met};
use repo::{IndexEntry, WalIndex};
use std::ops::ControlFlow;
use terms::{Lsn, SegmentName, Timestamp};

impl Log<'_> {
    /// Where recovery to `at` must stop if PostgreSQL, which stops at the first later commit or abort, would replay before it what takes
    /// effect without one: a database's files, say, are removed just before `DROP DATABASE` commits. That is right behind the last
    /// transaction that ended by then, though not before `consistent`. `None` when nothing of the kind is there.
    pub(crate) async fn stop_before_what_acts_at_once(
        &self,
        segments: &[SegmentName],
        index: &WalIndex,
        from: Lsn,
        consistent: Lsn,
        at: Timestamp,
    ) -> Result<Option<Lsn>, RestoreError> {
        let Some(near) = self.first_end_after(segments, index, from, at).await? else { return Ok(None) };
        let mut back = 0;
        loop {
            let first = near.saturating_sub(back);
            let begin = (first == 0).then_some(from);
            let (mut quiet_from, mut acts_at) = (None, None);
            let each = |record: pg::wal::Record| {
                match record.kind.ended_at() {
                    _ if record.start < from => {}
                    Some(ended) if ended > at => return ControlFlow::Break(()),
                    Some(_) => (quiet_from, acts_at) = (Some(record.end), None),
                    None if record.takes_effect_at_once() && record.start >= consistent => acts_at = acts_at.or(Some(record.start)),
                    None => {}
                }
                ControlFlow::Continue(())
            };
            self.walk(&segments[first..], near - first + 1, begin, &mut 0, each).await?;
            if quiet_from.is_some() || first == 0 {
                return Ok(acts_at.map(|_| quiet_from.unwrap_or(consistent).max(consistent)));
            }
            back = (back * 2).max(1);
        }
    }

    /// Which of the segments holds the first end of a transaction later than `at`; `None` when the log cannot be read as far.
    async fn first_end_after(&self, segments: &[SegmentName], index: &WalIndex, from: Lsn, at: Timestamp) -> Result<Option<usize>, RestoreError> {
        let mut found = None;
        let is_later = |entry: &IndexEntry| entry.max_end.is_some_and(|end| end > at);
        let each = |met: Met<'_>| {
            match met {
                Met::Record(record) if record.start >= from && record.kind.ended_at().is_some_and(|end| end > at) => {
                    found = Some(segments.partition_point(|name| name.end(self.size) <= record.start));
                }
                Met::Entry(_) | Met::Record(_) => return ControlFlow::Continue(()),
                // Recovery comes no further either, and says so.
                Met::End(_) | Met::Unreadable(_) => {}
            }
            ControlFlow::Break(())
        };
        self.look(segments, index, Some(from), |entry| !is_later(entry), each).await?;
        Ok(found)
    }
}
