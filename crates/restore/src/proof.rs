//! Proves what a plan rests on before anything is touched: every segment that recovery will read is there in the size that the index
//! knows, and what decides, or is not indexed as a whole, is read.

use crate::RestoreError;
use crate::plan::{Planner, RestorePlan, Stop};
use futures::TryStreamExt;
use repo::WalIndex;
use terms::{Lsn, SegmentName, SegmentSize, Timestamp};

/// So many segments are read at once.
const READS: usize = 2;

/// How many of the plan's segments recovery reads until it stops, at most. Where the index does not tell, all.
pub(crate) fn replayed(stop: &Stop, segments: &[SegmentName], index: &WalIndex, from: Lsn, size: SegmentSize) -> usize {
    let enough = match stop {
        // The record that begins there is read before recovery stops in front of it; it may reach into the next segment.
        Stop::Before(lsn) => segments.partition_point(|name| name.start(size) <= *lsn),
        // Recovery stops at the first transaction that ended later, wherever it is: any segment that holds one is far enough.
        Stop::Time(at) => {
            let ends_later = |name: &SegmentName| {
                let known = index.entry(*name).filter(|_| name.start(size) >= from);
                known.and_then(|entry| entry.max_end).is_some_and(|end: Timestamp| end > *at)
            };
            segments.iter().position(ends_later).map_or(segments.len(), |found| found + 1)
        }
        Stop::EndOfWal { .. } | Stop::Name(_) | Stop::Consistent => return segments.len(),
    };
    (enough + 1).min(segments.len())
}

impl Planner<'_> {
    /// Reads the first segment, those that are there in pieces, and those whose size or bytes are not what the index says; the last one
    /// was read to find its end. An object that does not open is damage, and named.
    pub(crate) async fn prove(&self, plan: &RestorePlan, index: &WalIndex) -> Result<(), RestoreError> {
        let needed = &plan.segments[..plan.replayed];
        let sizes = &self.known.sizes;
        let is_in_pieces = |name: &SegmentName| sizes.get(name).is_none_or(|bytes| *bytes == 0);
        let is_other = |name: &SegmentName| index.entry(*name).is_some_and(|entry| sizes.get(name).is_some_and(|bytes| *bytes != entry.bytes_stored));
        let to_read: Vec<SegmentName> =
            needed.iter().enumerate().filter(|(at, name)| *at == 0 || is_in_pieces(name) || is_other(name)).map(|(_, name)| *name).collect();
        let digester = self.log.reader.digester().await?;
        futures::stream::iter(to_read.into_iter().map(Ok::<_, RestoreError>))
            .try_for_each_concurrent(READS, |name| {
                let mut digester = digester.clone();
                async move {
                    let bytes = self.log.segment(name).await?;
                    let entry = index.entry(name).filter(|entry| !is_in_pieces(&name) && entry.is_whole(self.log.size));
                    match entry {
                        Some(entry) if digester.digest(&bytes) != entry.digest => {
                            Err(RestoreError::Altered { segment: name, target: plan.target.to_string() })
                        }
                        _ => Ok(()),
                    }
                }
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::IndexEntry;
    use seal::Digester;

    fn segments(count: u64) -> Vec<SegmentName> {
        (1..=count).map(|number| SegmentName::numbered(number, terms::Timeline::FIRST, SegmentSize::DEFAULT)).collect()
    }

    #[test]
    fn what_lies_far_behind_the_stop_is_not_read_by_recovery() {
        let (size, segments) = (SegmentSize::DEFAULT, segments(9));
        let second = |at: i64| Timestamp::from_unix_micros(at * 1_000_000);
        let mut index = WalIndex::default();
        for (at, name) in segments.iter().enumerate().take(6) {
            let entry = IndexEntry {
                segment: *name,
                bytes_stored: 1,
                digest: Digester::plain().digest(b""),
                first_record: None,
                end: name.end(size),
                min_end: None,
                max_end: Some(second(10 * at as i64)),
                restore_points: Vec::new(),
                open: None,
                damaged: None,
            };
            index.add(entry, second(0));
        }
        let count = |stop| replayed(&stop, &segments, &index, segments[1].start(size), size);
        assert_eq!(count(Stop::Time(second(25))), 5, "the fourth holds the first later end, and its last record may reach into the fifth");
        assert_eq!(count(Stop::Time(second(-1))), 3, "in the first it may have been before the backup began");
        assert_eq!(count(Stop::Time(second(99))), 9, "nothing is known to be later");
        assert_eq!(count(Stop::Before(segments[2].start(size).plus(40))), 4);
        assert_eq!(count(Stop::EndOfWal { at: segments[8].end(size) }), 9);
    }
}
