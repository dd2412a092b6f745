//! What an old pg_wal holds beyond what is stored: the last commits of a server that ended before they were sent.

use crate::push::push;
use crate::{CaptureError, uploads::session_number};
use bytes::Bytes;
use pg::wal::{RecordWalker, WalSource};
use pg::{CONTROL_FILE, ControlFile, TimelineHistory};
use repo::reach::Path as History;
use repo::{Epoch, Form, Piece, Stored, Writer};
use seal::Compression;
use std::fs;
use std::path::{Path, PathBuf};
use terms::{Lsn, SegmentName, SegmentSize, Timeline, WalName};

/// What became of an old pg_wal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salvaged {
    /// It ends where the stored log does, or before.
    Nothing { timeline: Timeline },
    /// The log from `from` to `to` was stored from it.
    Stored { timeline: Timeline, from: Lsn, to: Lsn },
    /// It holds more, but not what comes before it: that is lost, and so is this.
    Unconnected { timeline: Timeline, begins: Lsn },
}

/// The old log on the disk, beside the stored one.
struct Old<'a> {
    writer: &'a Writer,
    epoch: &'a Epoch,
    wal_dir: PathBuf,
    size: SegmentSize,
    timeline: Timeline,
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
    let old = Old { writer, epoch, wal_dir: data_dir.join("pg_wal"), size: control.segment_size, timeline };
    old.store(compression).await
}

impl Old<'_> {
    async fn store(&self, compression: Compression) -> Result<Salvaged, CaptureError> {
        let (size, timeline) = (self.size, self.timeline);
        let history = self.history()?;
        let view = self.writer.reader().wal_view(self.epoch.system_id, size).await?;
        let numbers = self.numbers()?;
        let is_whole = |number: u64| view.has(history.segment(number, size));
        let Some(first) = numbers.iter().copied().find(|number| !is_whole(*number)) else { return Ok(Salvaged::Nothing { timeline }) };
        let from = view.reach(history.segment(first, size));
        // A segment alone, with nothing stored before it, would be a hole in the log for every restore after.
        if first > 0 && from == history.segment(first, size).start(size) && !is_whole(first - 1) {
            let to = self.valid_to(first, &numbers)?;
            return Ok(if to > from { Salvaged::Unconnected { timeline, begins: from } } else { Salvaged::Nothing { timeline } });
        }
        let to = self.valid_to(first, &numbers)?;
        if to <= from {
            return Ok(Salvaged::Nothing { timeline });
        }
        self.check_continues(first, from).await?;
        if timeline != Timeline::FIRST && view.timeline(timeline).is_none_or(|known| !known.has_history) {
            push(self.writer, self.epoch, &self.wal_dir.join(WalName::History(timeline).to_string()), compression).await?;
        }
        for number in first.. {
            let name = SegmentName::numbered(number, timeline, size);
            if name.end(size) > to {
                let start = name.start(size).max(from);
                if start < to {
                    self.keep_piece(name, start, to, compression).await?;
                }
                break;
            }
            push(self.writer, self.epoch, &self.wal_dir.join(name.to_string()), compression).await?;
        }
        Ok(Salvaged::Stored { timeline, from, to })
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
