//! When to write down how far the log is stored, and up to what time that is everything.

use crate::receive::ReceiveOptions;
use std::time::Duration;
use terms::{Lsn, SegmentSize, Timestamp};
use tokio::time::Instant;

/// Segments may land a hundred times a second; the mark follows at this pace.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What one connection knows of marks.
pub(crate) struct Marks {
    size: SegmentSize,
    coverage_interval: Duration,
    status_interval: Duration,
    /// At this time the server had promised nobody anything beyond this position, which is not stored yet.
    pending: Option<(Lsn, Timestamp)>,
    /// The same, and it is stored.
    proven: Option<(Lsn, Timestamp)>,
    /// The mark written last: what was proven, what was stored, when.
    written: Option<(Lsn, Lsn, Instant)>,
}

/// A mark that is due.
pub(crate) struct Mark {
    pub(crate) lsn: Lsn,
    pub(crate) time: Timestamp,
    pub(crate) stored: Lsn,
}

impl Marks {
    /// `known` is what the repository's mark says already.
    pub(crate) fn new(size: SegmentSize, options: &ReceiveOptions, known: Option<(Lsn, Timestamp)>) -> Self {
        let (coverage_interval, status_interval) = (options.coverage_interval, options.status_interval);
        Self { size, coverage_interval, status_interval, pending: None, proven: known, written: None }
    }

    /// The server's word. One that is not stored yet is waited for: a newer one would be reached later still.
    pub(crate) fn promised(&mut self, lsn: Lsn, time: Timestamp) {
        self.pending.get_or_insert((lsn, time));
    }

    /// Whether a whole segment is stored that no mark speaks of: then look again soon.
    pub(crate) fn lags(&self, stored: Lsn) -> bool {
        self.written.is_some_and(|(_, marked, _)| self.segment(stored) > self.segment(marked))
    }

    fn segment(&self, lsn: Lsn) -> u64 {
        lsn.bytes() / self.size.bytes()
    }

    /// The mark to write now, everything before `stored` being stored. While uploads are busy marks keep their pace.
    pub(crate) fn due(&mut self, stored: Lsn, is_busy: bool) -> Option<Mark> {
        if let Some(promise) = self.pending.take_if(|(lsn, _)| *lsn <= stored) {
            self.proven = Some(promise);
        }
        let (lsn, time) = self.proven?;
        let is_due = match self.written {
            None => true,
            Some((_, _, at)) if at.elapsed() >= self.coverage_interval => true,
            // What was stored and is gone must be told from what never arrived: for that the mark follows whole segments.
            Some((_, _, at)) if self.lags(stored) => !is_busy || at.elapsed() >= PAUSE_MIN,
            Some((proven, _, at)) => proven != lsn && at.elapsed() >= self.status_interval,
        };
        if !is_due {
            return None;
        }
        self.written = Some((lsn, stored, Instant::now()));
        Some(Mark { lsn, time, stored })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;

    #[test]
    fn a_mark_follows_the_clock_when_idle_and_the_segments_under_load() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut marks = Marks::new(SegmentSize::DEFAULT, &ReceiveOptions::with_slot(Slot::Temporary("t".into())), None);
            let lsn = |mib: u64| Lsn::from_bytes(mib << 20);
            let at = Timestamp::from_unix_micros;
            let wait = |seconds| tokio::time::advance(Duration::from_secs(seconds));
            assert!(marks.due(lsn(1), true).is_none(), "the server has said nothing yet");
            marks.promised(lsn(3), at(1));
            marks.promised(lsn(9), at(2));
            assert!(marks.due(lsn(2), true).is_none(), "that much is not stored yet");
            let mark = marks.due(lsn(4), true).unwrap();
            assert_eq!((mark.lsn, mark.time, mark.stored), (lsn(3), at(1), lsn(4)), "the first promise, which is kept");
            assert!(marks.due(lsn(20), true).is_none(), "not so soon");
            wait(1).await;
            assert_eq!(marks.due(lsn(20), true).unwrap().stored, lsn(20), "a segment more is stored");
            assert_eq!(marks.due(lsn(40), false).unwrap().stored, lsn(40), "and at once when nothing else is on its way");
            wait(10).await;
            assert!(marks.due(lsn(41), false).is_none(), "nothing new is known");
            marks.promised(lsn(41), at(12));
            assert_eq!(marks.due(lsn(41), false).unwrap().time, at(12));
            marks.promised(lsn(41), at(22));
            wait(30).await;
            assert!(marks.due(lsn(41), false).is_none(), "idle");
            wait(30).await;
            assert_eq!(marks.due(lsn(41), false).unwrap().time, at(22), "once a minute");
        });
    }
}
