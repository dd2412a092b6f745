//! Reads the stored write-ahead log to answer what a plan must know: where it ends, which commits and restore points it holds.

use crate::RestoreError;
use crate::tail::refuse_foreign;
use pg::wal::{End, EndReason, Record, RecordKind, RecordWalker, WalSource};
use repo::{IndexEntry, Reader, RepoError, WalIndex};
use std::ops::ControlFlow;
use terms::{Class, Explain, Lsn, SegmentName, SegmentSize, SystemId, Timeline, Timestamp};

/// The log of one cluster, as stored.
#[derive(Clone, Copy)]
pub(crate) struct Log<'a> {
    pub(crate) reader: &'a Reader,
    pub(crate) system_id: SystemId,
    pub(crate) major: u32,
    pub(crate) size: SegmentSize,
    /// Pages of this timeline and of its ancestors are expected.
    pub(crate) timeline: Timeline,
}

/// A server's insert position, and where a walk from a segment's beginning ends, may lie just behind the header of a page of which
/// nothing is written yet (`SizeOfXLogLongPHD`, src/include/access/xlog_internal.h).
pub(crate) const PAGE_HEADER_MAX: u64 = 40;

/// What a look at the log meets, in the log's order.
pub(crate) enum Met<'i> {
    /// A segment of which the index says enough.
    Entry(&'i IndexEntry),
    Record(Record),
    /// The log ends here, although there are segments to look at behind it.
    End(Lsn),
    /// A segment does not open.
    Unreadable(RestoreError),
}

/// Whether something is in a stretch of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Yes(T),
    No,
    /// Not in what comes before this position, at which the log ends.
    NotBefore(Lsn),
}

impl Log<'_> {
    fn source(&self) -> WalSource {
        WalSource { major: self.major, system_id: self.system_id, timeline: self.timeline, segment_size: self.size }
    }

    pub(crate) async fn segment(&self, name: SegmentName) -> Result<Vec<u8>, RestoreError> {
        let found = self.reader.fetch_segment(self.system_id, name, self.size).await?.padded(self.size);
        let bytes = found.ok_or_else(|| RestoreError::Fetch { name: name.to_string(), why: "It was listed and is gone.".into() })?;
        refuse_foreign(&bytes, name, self.system_id, self.size)?;
        Ok(bytes)
    }

    /// What the index says of these segments.
    pub(crate) async fn index(&self, segments: &[SegmentName]) -> Result<WalIndex, RestoreError> {
        Ok(self.reader.index_of(self.system_id, segments).await?)
    }

    /// Walks the records that begin in the first `count` of `segments` (consecutive) from `from` on, or from the first one when
    /// that is `None`, until `each` breaks or the valid log ends. What follows is read only as far as the last of them reaches.
    /// Returns where the walk ended; `read` counts the segments that opened.
    pub(crate) async fn walk(
        &self,
        segments: &[SegmentName],
        count: usize,
        from: Option<Lsn>,
        read: &mut usize,
        mut each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<End, RestoreError> {
        let (Some(first), Some(last)) = (segments.first(), segments[..count].last()) else {
            return Err(RestoreError::Bug("nothing to walk".into()));
        };
        let mut walker = match from {
            Some(lsn) => RecordWalker::at(self.source(), lsn),
            None => RecordWalker::in_segment(self.source(), first.start(self.size)),
        };
        let limit = last.end(self.size);
        for (at, name) in segments.iter().enumerate() {
            if at >= count && walker.open_record().is_none() {
                break;
            }
            let bytes = self.segment(*name).await?;
            *read += 1;
            let mut broke = false;
            let ended = walker.feed(&bytes, |record| broke = broke || record.start >= limit || each(record).is_break());
            if broke || ended.is_some() {
                break;
            }
        }
        Ok(walker.end())
    }

    /// [`Log::walk`] over all of these.
    pub(crate) async fn walk_all(
        &self,
        segments: &[SegmentName],
        from: Option<Lsn>,
        each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<End, RestoreError> {
        self.walk(segments, segments.len(), from, &mut 0, each).await
    }

    /// Goes over what begins in `segments`, which are in order and need not be consecutive, until `each` breaks. A segment that
    /// the index knows, and of which it `says` enough, is not read. When the first must be read, it is read from `from` on.
    pub(crate) async fn look<'i>(
        &self,
        segments: &[SegmentName],
        index: &'i WalIndex,
        from: Option<Lsn>,
        says: impl Fn(&IndexEntry) -> bool,
        mut each: impl FnMut(Met<'i>) -> ControlFlow<()>,
    ) -> Result<(), RestoreError> {
        let known = |name: &SegmentName| index.entry(*name).filter(|entry| entry.is_whole(self.size) && says(entry));
        let follows = |two: &&[SegmentName]| two[0].number(self.size) + 1 == two[1].number(self.size);
        let mut at = 0;
        while at < segments.len() {
            if let Some(entry) = known(&segments[at]) {
                if each(Met::Entry(entry)).is_break() {
                    return Ok(());
                }
                at += 1;
                continue;
            }
            let joined = &segments[at..][..1 + segments[at..].windows(2).take_while(follows).count()];
            let count = joined.iter().take_while(|name| known(name).is_none()).count();
            let (mut read, mut broke) = (0, false);
            let walked = self.walk(joined, count, from.filter(|_| at == 0), &mut read, |record| {
                let flow = each(Met::Record(record));
                broke = flow.is_break();
                flow
            });
            let met = match walked.await {
                Ok(_) if broke => return Ok(()),
                Ok(end) if end.reason != EndReason::NeedMoreData && end.at < joined[count - 1].end(self.size) => {
                    // A record that reaches out of its segment ends the log there; more may begin in the segment behind that one.
                    at += joined.iter().take_while(|name| name.start(self.size) <= end.at).count().max(1);
                    Met::End(end.at)
                }
                Ok(_) => {
                    at += count;
                    continue;
                }
                Err(e @ RestoreError::Repo(RepoError::Object { .. })) if matches!(e.class(), Class::Damaged | Class::Refused) => {
                    at += count.min(read + 1);
                    Met::Unreadable(e)
                }
                Err(e @ RestoreError::Foreign { .. }) => {
                    at += count.min(read + 1);
                    Met::Unreadable(e)
                }
                Err(e) => return Err(e),
            };
            if each(met).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where the valid log in `segments` ends, and the latest end of a transaction in what was read for that. Only the end is read.
    pub(crate) async fn end(&self, segments: &[SegmentName]) -> Result<(Lsn, Option<Timestamp>), RestoreError> {
        // The last segments may hold nothing but the middle of one long record: then look further back.
        let mut back = 1;
        loop {
            let tail = &segments[segments.len().saturating_sub(back)..];
            let (mut seen, mut latest) = (false, None);
            let walked = self.walk_all(tail, None, |record| {
                seen = true;
                latest = latest.max(record.kind.ended_at());
                ControlFlow::Continue(())
            });
            let end = walked.await?.at;
            if (seen && latest.is_some()) || back >= segments.len() {
                return Ok((end, latest));
            }
            back *= 2;
        }
    }

    /// Where the log breaks off before `end`, as far as the index gives reason to look: where it knows of damage, and where what it
    /// was made from ended within a record, whose rest came in later and was looked at by nobody.
    pub(crate) async fn break_before(&self, segments: &[SegmentName], index: &WalIndex, from: Lsn, end: Lsn) -> Result<Option<Lsn>, RestoreError> {
        for (at, name) in segments.iter().enumerate() {
            if index.entry(*name).is_none_or(|entry| entry.damaged.is_none() && entry.open.is_none()) {
                continue;
            }
            // The index is not taken at its word: the object may have been put right, and on another timeline the log goes on elsewhere.
            let begin = (at == 0).then_some(from);
            let walked = self.walk(&segments[at..], 1, begin, &mut 0, |_| ControlFlow::Continue(())).await?;
            if walked.reason != EndReason::NeedMoreData && walked.at < name.end(self.size) && walked.at.plus(PAGE_HEADER_MAX) < end {
                return Ok(Some(walked.at));
            }
        }
        Ok(None)
    }

    /// Whether a transaction that ended later than `at` is in `segments`. The index is asked first, what it does not know is read:
    /// the newest first, since it most likely is there.
    pub(crate) async fn ends_after(&self, segments: &[SegmentName], index: &WalIndex, from: Lsn, at: Timestamp) -> Result<Found<()>, RestoreError> {
        let entry = |name: &SegmentName| index.entry(*name).filter(|entry| entry.is_whole(self.size));
        let is_later = |entry: &IndexEntry| entry.max_end.is_some_and(|end| end > at);
        // What ended before `from` in the first segment is not told apart there.
        if segments.iter().filter(|name| name.start(self.size) >= from).filter_map(entry).any(is_later) {
            return Ok(Found::Yes(()));
        }
        let unknown = segments.iter().filter(|name| entry(name).is_none()).count();
        let recent = &segments[segments.len().saturating_sub(2)..];
        if unknown > recent.len() && recent.iter().all(|name| entry(name).is_none()) {
            let mut found = false;
            self.walk_all(recent, None, |record| {
                found = record.kind.ended_at().is_some_and(|end| end > at);
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
            if found {
                return Ok(Found::Yes(()));
            }
        }
        // Commit stamps are not in the order of the log, so only having looked at all of it says no.
        let mut outcome = Ok(Found::No);
        self.look(
            segments,
            index,
            Some(from),
            |entry| !is_later(entry),
            |met| {
                match met {
                    Met::Record(record) if record.start >= from && record.kind.ended_at().is_some_and(|end| end > at) => outcome = Ok(Found::Yes(())),
                    Met::Entry(_) | Met::Record(_) => return ControlFlow::Continue(()),
                    Met::End(end) => outcome = Ok(Found::NotBefore(end)),
                    Met::Unreadable(e) => outcome = Err(e),
                }
                ControlFlow::Break(())
            },
        )
        .await?;
        outcome
    }

    /// Where recovery must stop so that every record that ends at or before `lsn` is replayed, and no other: before the first
    /// record that ends after it. [`Found::No`] when the log ends there, [`Found::NotBefore`] when it ends earlier.
    pub(crate) async fn stop_before(&self, segments: &[SegmentName], backup_start: Lsn, lsn: Lsn) -> Result<Found<Lsn>, RestoreError> {
        let near = segments.iter().position(|name| name.end(self.size) > lsn).unwrap_or(segments.len().saturating_sub(1));
        let mut back = 0;
        loop {
            let first = near.saturating_sub(back);
            let begin = (first == 0).then_some(backup_start);
            // A record that began earlier and reaches beyond `lsn` is not seen, unless one is seen that begins by then.
            let (mut is_exact, mut stop) = (first == 0, None);
            let walked = self.walk_all(&segments[first..], begin, |record| {
                is_exact = is_exact || record.start <= lsn;
                if record.end <= lsn {
                    return ControlFlow::Continue(());
                }
                stop = Some(record.start);
                ControlFlow::Break(())
            });
            let end = walked.await?.at;
            match stop {
                _ if !is_exact => back = (back * 2).max(1),
                Some(start) => return Ok(Found::Yes(start)),
                None if end.plus(PAGE_HEADER_MAX) < lsn => return Ok(Found::NotBefore(end)),
                None => return Ok(Found::No),
            }
        }
    }

    /// Where restore points of this name are, in order. What lies in segments that cannot be read is not among them.
    pub(crate) async fn restore_points(
        &self,
        segments: &[SegmentName],
        index: &WalIndex,
        wanted: &str,
    ) -> Result<Vec<(Lsn, Timestamp)>, RestoreError> {
        let mut found = Vec::new();
        self.look(
            segments,
            index,
            None,
            |_| true,
            |met| {
                match met {
                    Met::Entry(entry) => {
                        found.extend(entry.restore_points.iter().filter(|point| point.name == wanted).map(|point| (point.end, point.time)));
                    }
                    Met::Record(Record { end, kind: RecordKind::RestorePoint { name, at }, .. }) if name == wanted => found.push((end, at)),
                    Met::Record(_) | Met::End(_) | Met::Unreadable(_) => {}
                }
                ControlFlow::Continue(())
            },
        )
        .await?;
        Ok(found)
    }

    /// When the transactions ended whose end begins at `from` or later: the first and the last such time.
    pub(crate) async fn ends_between(
        &self,
        segments: &[SegmentName],
        index: &WalIndex,
        from: Lsn,
    ) -> Result<Option<(Timestamp, Timestamp)>, RestoreError> {
        let mut span: Option<(Timestamp, Timestamp)> = None;
        let mut add = |low: Timestamp, high: Timestamp| span = Some(span.map_or((low, high), |(first, last)| (first.min(low), last.max(high))));
        // In a segment that begins earlier what ended before `from` is not told apart.
        self.look(
            segments,
            index,
            None,
            |entry| entry.segment.start(self.size) >= from,
            |met| {
                match met {
                    Met::Entry(IndexEntry { min_end: Some(low), max_end: Some(high), .. }) => add(*low, *high),
                    Met::Record(record) if record.start >= from => {
                        if let Some(at) = record.kind.ended_at() {
                            add(at, at);
                        }
                    }
                    Met::Entry(_) | Met::Record(_) | Met::End(_) | Met::Unreadable(_) => {}
                }
                ControlFlow::Continue(())
            },
        )
        .await?;
        Ok(span)
    }

    /// The last end of a transaction before `lsn` and the first one behind it, as far as the segment that holds it and the next tell.
    pub(crate) async fn ends_around(&self, segments: &[SegmentName], lsn: Lsn) -> Result<(Option<Timestamp>, Option<Timestamp>), RestoreError> {
        let near = segments.iter().position(|name| name.end(self.size) > lsn).unwrap_or(segments.len().saturating_sub(1));
        let near = &segments[near..segments.len().min(near + 2)];
        let (mut before, mut behind) = (None, None);
        if !near.is_empty() {
            self.walk_all(near, None, |record| {
                match record.kind.ended_at() {
                    Some(at) if record.start < lsn => before = before.max(Some(at)),
                    Some(at) => behind = Some(at),
                    None => {}
                }
                if behind.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
        }
        Ok((before, behind))
    }

    /// When the timeline began that `segments` are of, by the record that ended recovery.
    pub(crate) async fn begun_at(&self, segments: &[SegmentName], fork: Lsn) -> Result<Option<Timestamp>, RestoreError> {
        let mut begun = None;
        self.walk_all(segments, None, |record| {
            if record.start < fork {
                return ControlFlow::Continue(());
            }
            match record.kind {
                RecordKind::EndOfRecovery { at, .. } | RecordKind::Checkpoint { at, .. } => {
                    begun = Some(at);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        })
        .await?;
        Ok(begun)
    }
}
