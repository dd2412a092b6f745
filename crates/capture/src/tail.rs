//! What is told of WAL that a failover left behind: when the first and the last transaction in it ended.

use pg::wal::{EndReason, RecordWalker, WalSource};
use repo::{RepoError, Stored};
use terms::{Explain, Lsn, SegmentName, Timestamp};

/// The transactions of a stretch of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    /// When the first and the last one ended, of those that were found.
    pub(crate) commits: Option<(Timestamp, Timestamp)>,
    /// Why not all of it could be looked at; then there may be others.
    pub(crate) unread: Option<String>,
}

impl Tail {
    /// Reads what is stored of a timeline between two positions.
    pub(crate) async fn read<F>(source: WalSource, from: Lsn, to: Lsn, fetch: impl Fn(SegmentName) -> F) -> Self
    where
        F: Future<Output = Result<Stored, RepoError>>,
    {
        let mut tail = Self::default();
        tail.unread = tail.look(source, from, to, fetch).await.err();
        tail
    }

    async fn look<F>(&mut self, source: WalSource, from: Lsn, to: Lsn, fetch: impl Fn(SegmentName) -> F) -> Result<(), String>
    where
        F: Future<Output = Result<Stored, RepoError>>,
    {
        let size = source.segment_size;
        let mut walker = RecordWalker::in_segment(source, from);
        let mut segment = SegmentName::containing(from, source.timeline, size);
        while segment.start(size) < to {
            let stored = fetch(segment).await.map_err(|e| e.in_a_line().trim_end_matches('.').to_owned())?;
            let (Stored::Whole(bytes) | Stored::Prefix(bytes)) = stored else { return Err(format!("segment {segment} is not stored")) };
            // A record that was cut there never was complete.
            let wanted = (to.bytes() - segment.start(size).bytes()).min(size.bytes()) as usize;
            let ended = walker.feed(&bytes[..wanted.min(bytes.len())], |record| {
                if let Some(at) = record.kind.ended_at().filter(|_| record.start >= from) {
                    self.commits = Some(self.commits.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
                }
            });
            match ended {
                Some(end) if end.reason == EndReason::ZeroTail => return Ok(()),
                Some(end) => return Err(format!("it makes no sense from {} on", end.at)),
                None if bytes.len() < wanted => return Err(format!("segment {segment} is stored to {} only", walker.position())),
                None => segment = segment.next(size),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use terms::{SegmentSize, SystemId, Timeline};

    fn read(from: u64, to: u64, stored: impl Fn() -> Result<Stored, RepoError>) -> Tail {
        let segment_size = SegmentSize::from_bytes(1 << 20).unwrap();
        let source = WalSource { major: 18, system_id: SystemId::new(7), timeline: Timeline::FIRST, segment_size };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Tail::read(source, Lsn::from_bytes(from), Lsn::from_bytes(to), |_| std::future::ready(stored())))
    }

    #[test]
    fn what_could_not_be_looked_at_is_not_taken_for_no_transaction() {
        let refused = read(1 << 20, 3 << 20, || Err(RepoError::Bug("the store is away".into())));
        assert!(refused.unread.as_ref().is_some_and(|why| why.contains("the store is away")), "{refused:?}");
        let missing = read(1 << 20, 3 << 20, || Ok(Stored::Nothing));
        assert_eq!(missing.unread.as_deref(), Some("segment 000000010000000000000001 is not stored"));
        let nonsense = read(1 << 20, 3 << 20, || Ok(Stored::Whole(vec![7; 1 << 20])));
        assert_eq!(nonsense.unread.as_deref(), Some("it makes no sense from 0/100000 on"));
        assert!([refused, missing, nonsense].iter().all(|tail| tail.commits.is_none()));
    }

    #[test]
    fn a_tail_without_a_transaction_is_told_as_such() {
        assert_eq!(read(1 << 20, 1 << 20, || Ok(Stored::Nothing)), Tail::default());
    }
}
