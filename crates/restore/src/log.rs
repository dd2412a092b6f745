//! Reads the stored write-ahead log to answer what a plan must know: where it ends, which commits and restore points it holds.

use crate::RestoreError;
use pg::wal::Record;
use pg::wal::{RecordKind, RecordWalker, WalSource};
use repo::{IndexEntry, Reader};
use std::ops::ControlFlow;
use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timeline, Timestamp};

/// The log of one cluster, as stored.
pub(crate) struct Log<'a> {
    pub(crate) reader: &'a Reader,
    pub(crate) system_id: SystemId,
    pub(crate) major: u32,
    pub(crate) size: SegmentSize,
    /// Pages of this timeline and of its ancestors are expected.
    pub(crate) timeline: Timeline,
}

impl Log<'_> {
    fn source(&self) -> WalSource {
        WalSource { major: self.major, system_id: self.system_id, timeline: self.timeline, segment_size: self.size }
    }

    async fn segment(&self, name: SegmentName) -> Result<Vec<u8>, RestoreError> {
        let found = self.reader.fetch_segment(self.system_id, name, self.size).await?.padded(self.size);
        found.ok_or_else(|| RestoreError::Fetch { name: name.to_string(), why: "It was listed and is gone.".into() })
    }

    /// Walks the records that begin in `segments` (consecutive) from `from` on, or from the first one when that is
    /// `None`, until `each` breaks or the valid log ends. Returns where the walk ended.
    pub(crate) async fn walk(
        &self,
        segments: &[SegmentName],
        from: Option<Lsn>,
        mut each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Lsn, RestoreError> {
        let Some(first) = segments.first() else { return Err(RestoreError::Bug("nothing to walk".into())) };
        let mut walker = match from {
            Some(lsn) => RecordWalker::at(self.source(), lsn),
            None => RecordWalker::in_segment(self.source(), first.start(self.size)),
        };
        for name in segments {
            let bytes = self.segment(*name).await?;
            let mut broke = false;
            let end = walker.feed(&bytes, |record| broke = broke || each(record).is_break());
            if broke || end.is_some() {
                break;
            }
        }
        Ok(walker.end().at)
    }

    /// Where the valid log in `segments` ends, and the latest end of a transaction in what was read for that.
    pub(crate) async fn end(&self, segments: &[SegmentName]) -> Result<(Lsn, Option<Timestamp>), RestoreError> {
        // The last segments may hold nothing but the middle of one long record: then look further back.
        let mut back = 1;
        loop {
            let tail = &segments[segments.len().saturating_sub(back)..];
            let (mut seen, mut latest) = (false, None);
            let end = self
                .walk(tail, None, |record| {
                    seen = true;
                    latest = latest.max(record.kind.ended_at());
                    ControlFlow::Continue(())
                })
                .await?;
            if (seen && latest.is_some()) || back >= segments.len() {
                return Ok((end, latest));
            }
            back *= 2;
        }
    }

    /// What the index says of `segments`, from the first one on as far as it knows everything of them.
    async fn indexed(&self, segments: &[SegmentName]) -> Result<Vec<IndexEntry>, RestoreError> {
        let index = self.reader.index_of(self.system_id, segments).await?;
        Ok(index.leading(segments, self.size).into_iter().cloned().collect())
    }

    /// Whether a transaction that ended later than `at` is in `segments`. The index is asked first, what it does not know is read:
    /// the newest first, since it most likely is there.
    pub(crate) async fn ends_after(&self, segments: &[SegmentName], from: Lsn, at: Timestamp) -> Result<bool, RestoreError> {
        let indexed = self.indexed(segments).await?;
        // What ended before `from` in the first segment is not told apart there.
        let first_counts = segments.first().is_some_and(|first| first.start(self.size) >= from);
        let is_later = |entry: &IndexEntry| entry.max_end.is_some_and(|end| end > at);
        if indexed.iter().skip(usize::from(!first_counts)).any(is_later) {
            return Ok(true);
        }
        let rest = &segments[indexed.len()..];
        let recent = &rest[rest.len().saturating_sub(2)..];
        let begin = indexed.is_empty().then_some(from);
        // Commit stamps are not in the order of the log, so only having looked at all of it says no.
        let mut reads = if rest.len() > recent.len() { vec![(recent, None), (rest, begin)] } else { vec![(rest, begin)] };
        if indexed.first().is_some_and(is_later) {
            reads.push((&segments[..1], Some(from)));
        }
        for (segments, begin) in reads.into_iter().filter(|(segments, _)| !segments.is_empty()) {
            let mut found = false;
            self.walk(segments, begin, |record| {
                found = found || (record.start >= from && record.kind.ended_at().is_some_and(|end| end > at));
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where recovery must stop so that every record that ends at or before `lsn` is replayed, and no other:
    /// before the first record that ends after it. `None` when the log has no such record.
    pub(crate) async fn stop_before(&self, segments: &[SegmentName], backup_start: Lsn, lsn: Lsn) -> Result<Option<Lsn>, RestoreError> {
        let mut stop = None;
        let look = |record: &Record| record.end > lsn;
        // From the segment of the position; if no record begins there before it, from the beginning.
        let near = segments.iter().position(|s| s.end(self.size) > lsn).unwrap_or(segments.len() - 1).saturating_sub(1);
        let from = if near == 0 { Some(backup_start) } else { None };
        self.walk(&segments[near..], from, |record| {
            if look(&record) {
                stop = Some(record.start);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(stop)
    }

    /// Where restore points of this name are, in order.
    pub(crate) async fn restore_points(&self, segments: &[SegmentName], from: Lsn, wanted: &str) -> Result<Vec<(Lsn, Timestamp)>, RestoreError> {
        let indexed = self.indexed(segments).await?;
        let points = indexed.iter().flat_map(|entry| &entry.restore_points);
        let mut found: Vec<(Lsn, Timestamp)> =
            points.filter(|point| point.name == wanted && point.end > from).map(|point| (point.end, point.time)).collect();
        let rest = &segments[indexed.len()..];
        if rest.is_empty() {
            return Ok(found);
        }
        let begin = indexed.is_empty().then_some(from);
        self.walk(rest, begin, |record| {
            if let RecordKind::RestorePoint { name, at } = &record.kind
                && name == wanted
            {
                found.push((record.end, *at));
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(found)
    }

    /// When the transactions ended whose end begins at `from` or later: the first and the last such time.
    pub(crate) async fn ends_between(&self, segments: &[SegmentName], from: Lsn) -> Result<Option<(Timestamp, Timestamp)>, RestoreError> {
        let mut span: Option<(Timestamp, Timestamp)> = None;
        self.walk(segments, None, |record| {
            if let Some(at) = record.kind.ended_at().filter(|_| record.start >= from) {
                span = Some(span.map_or((at, at), |(low, high)| (low.min(at), high.max(at))));
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(span)
    }

    /// When the timeline began that `segments` are of, by the record that ended recovery.
    pub(crate) async fn begun_at(&self, segments: &[SegmentName], fork: Lsn) -> Result<Option<Timestamp>, RestoreError> {
        let mut begun = None;
        self.walk(segments, None, |record| {
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
