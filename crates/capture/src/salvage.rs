//! What an old pg_wal holds beyond what is stored: the last commits of a server that ended before they were sent.

use crate::push::push;
use crate::{CaptureError, uploads::session_number};
use bytes::Bytes;
use pg::wal::{PageHeader, RecordWalker, WAL_PAGE_SIZE, WalSource};
use pg::{CONTROL_FILE, ControlFile, TimelineHistory};
use repo::reach::Path as History;
use repo::{Epoch, Form, Piece, Stored, WalView, Writer};
use seal::Compression;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use terms::{Lsn, SegmentName, SegmentSize, Timeline, WalName};

/// What became of an old pg_wal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salvaged {
    /// It holds nothing beyond what is stored.
    Nothing {
        /// It was read to where the server ended.
        is_end: bool,
    },
    /// The log from `from` to `to` was stored from it.
    Stored {
        /// Where what was stored ended before: the first byte that is new.
        from: Lsn,
        /// The end of the last valid record; excluded.
        to: Lsn,
        /// The server ended at `to`.
        is_end: bool,
    },
    /// It holds more, but not what comes before it: that is lost, and so is this.
    Unconnected {
        /// The one that the old server wrote last, by its pg_control.
        timeline: Timeline,
        /// The first byte that is there and not stored.
        begins: Lsn,
    },
}

/// The old log on the disk, beside the stored one.
struct Old<'a> {
    writer: &'a Writer,
    epoch: &'a Epoch,
    wal_dir: PathBuf,
    size: SegmentSize,
    timeline: Timeline,
    /// Where the server's latest checkpoint was recorded: its log went at least so far.
    checkpoint: Lsn,
}

/// Stores the valid log that `data_dir`, whose server is stopped, holds beyond what is stored of its timeline. Nothing that is stored is
/// replaced: where the two differ it fails, and has stored nothing.
pub async fn salvage(writer: &Writer, epoch: &Epoch, data_dir: &Path, compression: Compression) -> Result<Salvaged, CaptureError> {
    let path = data_dir.join(CONTROL_FILE);
    let control = fs::read(&path).map_err(|source| CaptureError::File { operation: "read", path: path.clone(), source })?;
    let control = ControlFile::parse(&control).map_err(|e| CaptureError::BadWal { path: path.clone(), why: e.to_string() })?;
    if control.system_id != epoch.system_id {
        return Err(CaptureError::BadWal { path, why: format!("It is of cluster {}, not of {}", control.system_id, epoch.system_id) });
    }
    let timeline = control.timeline.max(control.min_recovery_timeline.unwrap_or(control.timeline));
    let old = Old { writer, epoch, wal_dir: data_dir.join("pg_wal"), size: control.segment_size, timeline, checkpoint: control.checkpoint };
    old.store(compression).await
}

impl Old<'_> {
    async fn store(&self, compression: Compression) -> Result<Salvaged, CaptureError> {
        let (size, timeline) = (self.size, self.timeline);
        let history = self.history()?;
        let view = self.writer.reader().wal_view(self.epoch.system_id, size).await?;
        let numbers = self.numbers()?;
        let joints = joints(&view, &history, &numbers);
        if joints.is_empty() {
            let Some(first) = behind(&view, timeline, &numbers) else {
                let last = numbers.last().map(|number| history.segment(*number, size)).filter(|last| view.has(*last));
                return Ok(Salvaged::Nothing { is_end: last.is_some_and(|last| self.checkpoint < last.end(size)) });
            };
            // A segment alone, with nothing stored before it, would be a hole in the log for every restore after.
            let begins = SegmentName::numbered(first, timeline, size).start(size);
            let holds_more = self.valid_to(first, &numbers)? > begins;
            return Ok(if holds_more { Salvaged::Unconnected { timeline, begins } } else { Salvaged::Nothing { is_end: false } });
        }
        let mut new: Vec<(u64, Lsn, Lsn)> = Vec::new();
        let mut to = Lsn::from_bytes(0);
        for first in joints {
            let segment = history.segment(first, size);
            // The valid log from an earlier one on goes through this one, too.
            if segment.start(size) < to {
                continue;
            }
            let from = view.reach(segment);
            to = self.valid_to(first, &numbers)?;
            // What is stored may end in the midst of a record, which nobody was promised.
            if to > from {
                self.check_continues(first, from).await?;
                new.push((first, from, to));
            }
        }
        let is_end = self.is_end(to, &numbers)?;
        let (Some(&(_, from, _)), Some(&(_, _, to))) = (new.first(), new.last()) else { return Ok(Salvaged::Nothing { is_end }) };
        if timeline != Timeline::FIRST && view.timeline(timeline).is_none_or(|known| !known.has_history) {
            push(self.writer, self.epoch, &self.wal_dir.join(WalName::History(timeline).to_string()), compression).await?;
        }
        for (first, from, to) in new {
            self.keep(first, from, to, compression).await?;
        }
        Ok(Salvaged::Stored { from, to, is_end })
    }

    /// Stores the log from `from`, which lies in this segment, to `to`.
    async fn keep(&self, first: u64, from: Lsn, to: Lsn, compression: Compression) -> Result<(), CaptureError> {
        let size = self.size;
        for number in first.. {
            let name = SegmentName::numbered(number, self.timeline, size);
            if name.end(size) > to {
                let start = name.start(size).max(from);
                if start < to {
                    self.keep_piece(name, start, to, compression).await?;
                }
                break;
            }
            push(self.writer, self.epoch, &self.wal_dir.join(name.to_string()), compression).await?;
        }
        Ok(())
    }

    /// How this timeline came to be, by its own file.
    fn history(&self) -> Result<History, CaptureError> {
        if self.timeline == Timeline::FIRST {
            return Ok(History::new(&[], self.timeline));
        }
        let path = self.wal_dir.join(WalName::History(self.timeline).to_string());
        let text = fs::read_to_string(&path).map_err(|source| CaptureError::File { operation: "read", path: path.clone(), source })?;
        let history = TimelineHistory::parse(self.timeline, &text).map_err(|e| CaptureError::BadWal { path, why: e.to_string() })?;
        let ancestors: Vec<_> = history.branches().iter().map(|branch| (branch.timeline, branch.end)).collect();
        Ok(History::new(&ancestors, self.timeline))
    }

    /// The segments of the timeline that lie there, in order. Those that were made ready for later are among them.
    fn numbers(&self) -> Result<Vec<u64>, CaptureError> {
        let listing = fs::read_dir(&self.wal_dir);
        let listing = listing.map_err(|source| CaptureError::File { operation: "list", path: self.wal_dir.clone(), source })?;
        let segment = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<SegmentName>().ok();
        let of_timeline = listing.flatten().filter_map(segment).filter(|name| name.timeline() == self.timeline);
        let mut numbers: Vec<u64> = of_timeline.map(|name| name.number(self.size)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Where the valid log ends that begins in this segment.
    fn valid_to(&self, first: u64, numbers: &[u64]) -> Result<Lsn, CaptureError> {
        let source = WalSource { major: self.epoch.major, system_id: self.epoch.system_id, timeline: self.timeline, segment_size: self.size };
        let mut walker = RecordWalker::in_segment(source, SegmentName::numbered(first, self.timeline, self.size).start(self.size));
        for number in (first..).take_while(|number| numbers.contains(number)) {
            if walker.feed(&self.read(SegmentName::numbered(number, self.timeline, self.size))?, |_| {}).is_some() {
                break;
            }
        }
        Ok(walker.end().at)
    }

    /// Whether the server ended where the valid log does: not before its own latest checkpoint, and nothing is written behind it. A page that
    /// bears its own place was written there; one that was made ready for later bears that of its former use, or nothing.
    fn is_end(&self, to: Lsn, numbers: &[u64]) -> Result<bool, CaptureError> {
        let own = to.bytes() / self.size.bytes();
        if to <= self.checkpoint || !(numbers.contains(&own) || to.bytes().is_multiple_of(self.size.bytes())) {
            return Ok(false);
        }
        for number in numbers.iter().copied().filter(|number| *number >= own) {
            let name = SegmentName::numbered(number, self.timeline, self.size);
            let pages = if number == own { self.size.bytes() / WAL_PAGE_SIZE as u64 } else { 1 };
            let bytes = if number == own { self.read(name)? } else { self.first_page(name)? };
            let is_written = |page: u64| {
                let at = name.start(self.size).plus(page * WAL_PAGE_SIZE as u64);
                let header = bytes.get((page as usize * WAL_PAGE_SIZE)..).and_then(|rest| rest.first_chunk()).map(PageHeader::read);
                at > to && header.is_some_and(|header| header.address == at && header.timeline == self.timeline.id())
            };
            if (0..pages).any(is_written) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn first_page(&self, name: SegmentName) -> Result<Vec<u8>, CaptureError> {
        let path = self.wal_dir.join(name.to_string());
        let mut bytes = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(WAL_PAGE_SIZE as u64).read_to_end(&mut bytes));
        read.map_err(|source| CaptureError::File { operation: "read", path, source })?;
        Ok(bytes)
    }

    /// Both logs must be one: what is stored of the segment is what lies there.
    async fn check_continues(&self, first: u64, from: Lsn) -> Result<(), CaptureError> {
        let name = SegmentName::numbered(first, self.timeline, self.size);
        let Stored::Prefix(stored) = self.writer.reader().fetch_segment(self.epoch.system_id, name, self.size).await? else { return Ok(()) };
        let here = self.read(name)?;
        let length = stored.len().min(from.bytes_since(name.start(self.size)) as usize);
        if here.get(..length) == Some(&stored[..length]) {
            return Ok(());
        }
        Err(CaptureError::BadWal {
            path: self.wal_dir.join(name.to_string()),
            why: "It is not what is stored of it: another server wrote one of them".into(),
        })
    }

    async fn keep_piece(&self, segment: SegmentName, start: Lsn, end: Lsn, compression: Compression) -> Result<(), CaptureError> {
        let bytes = self.read(segment)?;
        let offset = |lsn: Lsn| lsn.bytes_since(segment.start(self.size)) as usize;
        let bytes = Bytes::from(bytes).slice(offset(start)..offset(end));
        let piece = Piece { segment, start, end, session: session_number(), form: Form::Object };
        let protection = self.writer.wal_protection(self.epoch).await?;
        self.writer.keep_piece(self.epoch.system_id, &piece, bytes, &protection, compression).await?;
        Ok(())
    }

    fn read(&self, name: SegmentName) -> Result<Vec<u8>, CaptureError> {
        let path = self.wal_dir.join(name.to_string());
        let bytes = fs::read(&path).map_err(|source| CaptureError::File { operation: "read", path: path.clone(), source })?;
        if bytes.len() as u64 != self.size.bytes() {
            return Err(CaptureError::BadWal { path, why: format!("It has {} bytes, a segment has {}", bytes.len(), self.size.bytes()) });
        }
        Ok(bytes)
    }
}

/// Of the segments that lie there, those in which the stored log goes on: they are not stored whole, and what comes before is stored. Mostly
/// that is one, where the stored log ends; a hole in it has its own. What is older than all that is stored is none, as where the server had
/// run for a while before it was protected, or keeps more than retention does.
fn joints(view: &WalView, history: &History, numbers: &[u64]) -> Vec<u64> {
    let size = view.segment_bytes;
    let is_whole = |number: u64| view.has(history.segment(number, size));
    let is_begun = |number: u64| view.reach(history.segment(number, size)) > history.segment(number, size).start(size);
    let goes_on = |number: u64| is_begun(number) || number.checked_sub(1).is_none_or(is_whole);
    numbers.iter().copied().filter(|number| !is_whole(*number) && goes_on(*number)).collect()
}

/// Of the segments that lie there, the first behind all that is stored of their timeline.
fn behind(view: &WalView, timeline: Timeline, numbers: &[u64]) -> Option<u64> {
    let last = view.segments_from(timeline, 0).last().map(|last| last.number(view.segment_bytes));
    numbers.iter().copied().find(|number| last.is_none_or(|last| *number > last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo::{SegmentRun, TimelineView};
    use terms::SystemId;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    /// These runs of segments are stored whole, and the beginning of this one.
    fn stored(timeline: Timeline, runs: &[(u64, u64)], begun: Option<u64>) -> TimelineView {
        let piece = |number: u64| {
            let segment = SegmentName::numbered(number, timeline, SIZE);
            let start = segment.start(SIZE);
            Piece { segment, start, end: start.plus(4096), session: 1, form: Form::Object }
        };
        TimelineView {
            timeline,
            has_history: timeline != Timeline::FIRST,
            runs: runs.iter().map(|(first, last)| SegmentRun { first: *first, last: *last }).collect(),
            pieces: begun.into_iter().map(piece).collect(),
        }
    }

    fn found(timelines: Vec<TimelineView>, history: &History, numbers: impl IntoIterator<Item = u64>) -> (Vec<u64>, Option<u64>) {
        let view = WalView { system_id: SystemId::new(1), segment_bytes: SIZE, timelines };
        let numbers: Vec<u64> = numbers.into_iter().collect();
        (joints(&view, history, &numbers), behind(&view, history.timeline(), &numbers))
    }

    #[test]
    fn what_is_saved_begins_where_the_stored_log_ends_whatever_older_segments_lie_there() {
        let first = History::new(&[], Timeline::FIRST);
        let found = |runs: &[(u64, u64)], begun: Option<u64>, numbers: std::ops::RangeInclusive<u64>| {
            found(vec![stored(Timeline::FIRST, runs, begun)], &first, numbers)
        };
        assert_eq!(found(&[(5, 10)], None, 8..=12), (vec![11], Some(11)));
        assert_eq!(found(&[(5, 10)], None, 1..=12), (vec![11], Some(11)), "1 to 4 are older than all that is stored");
        assert_eq!(found(&[(5, 10)], Some(11), 1..=12), (vec![11], Some(12)), "the rest of 11 is new");
        assert_eq!(found(&[(5, 10)], None, 1..=10), (vec![], None), "nothing is new");
        assert_eq!(found(&[(5, 10)], None, 1..=4), (vec![], None), "nor here, where the disk is behind what is stored");
        assert_eq!(found(&[(5, 10)], None, 20..=25), (vec![], Some(20)), "what comes before 20 is lost");
        assert_eq!(found(&[], None, 1..=3), (vec![], Some(1)), "nothing is stored to go on from");
        assert_eq!(found(&[(5, 8), (10, 10)], None, 1..=12), (vec![9, 11], Some(11)), "a hole is filled, too");
    }

    #[test]
    fn a_timeline_goes_on_from_the_one_that_it_left() {
        let second = Timeline::new(2).unwrap();
        let history = History::new(&[(Timeline::FIRST, SegmentName::numbered(8, Timeline::FIRST, SIZE).start(SIZE).plus(512))], second);
        assert_eq!(found(vec![stored(Timeline::FIRST, &[(5, 7)], Some(8))], &history, 8..=9), (vec![8], Some(8)));
        assert_eq!(found(vec![stored(Timeline::FIRST, &[(5, 6)], None)], &history, 8..=9), (vec![], Some(8)), "7 is not stored");
        let both = vec![stored(Timeline::FIRST, &[(5, 8)], None), stored(second, &[(8, 9)], None)];
        assert_eq!(found(both, &history, 8..=11), (vec![10], Some(10)));
    }
}
