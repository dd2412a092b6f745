//! A time lies between two ends of transactions, and what is replayed of the log between them must not be felt.

use crate::RestoreError;
use crate::log::{Log, Met};
use pg::wal::Record;
use repo::{IndexEntry, RepoError, WalIndex};
use std::ops::ControlFlow;
use terms::{Lsn, SegmentName, Timestamp};

/// The log that recovery to a time goes through.
pub(crate) struct Way<'a> {
    pub(crate) segments: &'a [SegmentName],
    pub(crate) index: &'a WalIndex,
    /// Where the backup begins.
    pub(crate) from: Lsn,
    /// Where it is consistent: recovery cannot stop earlier.
    pub(crate) consistent: Lsn,
}

impl Log<'_> {
    /// Where recovery to `at` must stop if PostgreSQL, which stops at the first later commit or abort, would replay before it what takes
    /// effect without one: a database's files, say, are removed just before `DROP DATABASE` commits. That is right behind the last
    /// transaction that ended by then, though not before the backup is consistent. `None` when nothing of the kind is there.
    pub(crate) async fn stop_before_what_acts_at_once(&self, way: &Way<'_>, at: Timestamp) -> Result<Option<Lsn>, RestoreError> {
        let is_later = |record: &Record| record.kind.ended_at().is_some_and(|ended| ended > at);
        let Some(near) = self.about_first_end_after(way, at).await? else { return Ok(None) };
        if self.quiet_end(way, near, is_later).await?.is_none() {
            return Ok(None);
        }
        // Commit stamps are not in the order of the log, so only having looked at all of it names the place.
        match self.first_end_after(way, at).await? {
            Some(near) => self.quiet_end(way, near, is_later).await,
            None => Ok(None),
        }
    }

    /// The same for recovery that is to stop before the end of a transaction, whose record begins at `end`.
    pub(crate) async fn stop_before_what_acts_at_once_by(&self, way: &Way<'_>, end: Lsn) -> Result<Option<Lsn>, RestoreError> {
        let near = way.segments.partition_point(|name| name.end(self.size) <= end);
        self.quiet_end(way, near, |record| record.start >= end).await
    }

    /// Right behind the last transaction that ended before the first record that is `beyond`, which begins in the segment `near`, when
    /// something between the two takes effect at once.
    async fn quiet_end(&self, way: &Way<'_>, near: usize, beyond: impl Fn(&Record) -> bool) -> Result<Option<Lsn>, RestoreError> {
        let mut back = 0;
        loop {
            let first = near.saturating_sub(back);
            let begin = (first == 0).then_some(way.from);
            let (mut quiet_from, mut acts) = (None, false);
            let each = |record: Record| {
                match record.kind.ended_at() {
                    _ if record.start < way.from => {}
                    _ if beyond(&record) => return ControlFlow::Break(()),
                    Some(_) => (quiet_from, acts) = (Some(record.end), false),
                    None => acts = acts || (record.takes_effect_at_once() && record.start >= way.consistent),
                }
                ControlFlow::Continue(())
            };
            self.walk(&way.segments[first..], near - first + 1, begin, &mut 0, each).await?;
            if quiet_from.is_some() || first == 0 {
                return Ok(acts.then(|| quiet_from.unwrap_or(way.consistent).max(way.consistent)));
            }
            back = (back * 2).max(1);
        }
    }

    /// Which of the segments holds the first end of a transaction later than `at`, if the log has them in the order of their times, as it
    /// nearly does: then few of those that the index does not know are read.
    async fn about_first_end_after(&self, way: &Way<'_>, at: Timestamp) -> Result<Option<usize>, RestoreError> {
        let (mut low, mut high, mut found) = (0, way.segments.len(), None);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut next = middle;
            let mut latest = None;
            while next < high && latest.is_none() {
                latest = self.latest_end(way, next).await?;
                next += 1;
            }
            if latest.is_some_and(|end| end <= at) {
                low = next;
                continue;
            }
            found = latest.map_or(found, |_| Some(next - 1));
            high = middle;
        }
        Ok(found)
    }

    /// The latest end of a transaction in one segment; `None` too when it cannot be read, which recovery will say.
    async fn latest_end(&self, way: &Way<'_>, segment: usize) -> Result<Option<Timestamp>, RestoreError> {
        if let Some(entry) = way.index.entry(way.segments[segment]).filter(|entry| entry.is_whole(self.size)) {
            return Ok(entry.max_end);
        }
        let (begin, mut latest) = ((segment == 0).then_some(way.from), None);
        let each = |record: Record| {
            latest = latest.max(record.kind.ended_at());
            ControlFlow::Continue(())
        };
        match self.walk(&way.segments[segment..], 1, begin, &mut 0, each).await {
            Ok(_) => Ok(latest),
            Err(RestoreError::Repo(RepoError::Object { .. })) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Which of the segments holds the first end of a transaction later than `at`; `None` when the log cannot be read as far.
    async fn first_end_after(&self, way: &Way<'_>, at: Timestamp) -> Result<Option<usize>, RestoreError> {
        let mut found = None;
        let is_later = |entry: &IndexEntry| entry.max_end.is_some_and(|end| end > at);
        let each = |met: Met<'_>| {
            match met {
                Met::Record(record) if record.start >= way.from && record.kind.ended_at().is_some_and(|end| end > at) => {
                    found = Some(way.segments.partition_point(|name| name.end(self.size) <= record.start));
                }
                Met::Entry(_) | Met::Record(_) => return ControlFlow::Continue(()),
                // Recovery comes no further either, and says so.
                Met::End(_) | Met::Unreadable(_) => {}
            }
            ControlFlow::Break(())
        };
        self.look(way.segments, way.index, Some(way.from), |entry| !is_later(entry), each).await?;
        Ok(found)
    }
}
