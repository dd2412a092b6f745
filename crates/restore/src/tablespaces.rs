//! Tablespaces that the log creates. Its replay links them to where they were made, whatever the restore has put elsewhere: beside the
//! server that still uses that place the copy's replay would write into its files, and in place onto those of the old cluster. So before
//! the server is given the log that does it, the place is looked at.

use crate::RestoreError;
use crate::plan::{RestorePlan, Stop};
use crate::target::{Target, clear_tablespace};
use pg::wal::{Record, RecordKind, RecordWalker, WalSource, may_create_tablespace};
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use terms::{Clock, Event, Events, Lsn, SegmentName, SegmentSize, SystemClock, SystemId};

/// Looks at what each segment is about to do.
pub(crate) struct Lookout {
    target: Target,
    /// A restore beside production writes nothing outside its own place.
    is_side: bool,
    major: u32,
    system_id: SystemId,
    segment_size: SegmentSize,
    stop: Stop,
    consistent: Lsn,
    seen: Mutex<Seen>,
    events: Arc<dyn Events>,
}

#[derive(Default)]
struct Seen {
    /// Segments that may create one.
    suspects: HashSet<SegmentName>,
    /// The records for which room was made.
    done: HashSet<Lsn>,
    /// What lay there, from and to.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Lookout {
    pub(crate) fn new(target: &Target, is_side: bool, plan: &RestorePlan, segment_size: SegmentSize, events: Arc<dyn Events>) -> Self {
        Self {
            target: target.clone(),
            is_side,
            major: plan.backup.major,
            system_id: plan.backup.system_id,
            segment_size,
            stop: plan.stop.clone(),
            consistent: plan.backup.stop.lsn,
            seen: Mutex::default(),
            events,
        }
    }

    /// A segment was fetched.
    pub(crate) fn glance(&self, segment: SegmentName, bytes: &[u8]) {
        if may_create_tablespace(bytes) {
            self.seen().suspects.insert(segment);
        }
    }

    /// The server is about to get `segment`, which lies at `path`; `former` is the one before it, where that still lies.
    pub(crate) fn look(&self, segment: SegmentName, path: &Path, former: Option<(SegmentName, &Path)>) -> Result<(), RestoreError> {
        // A record that begins in the former one may end here.
        let former = former.filter(|(name, path)| self.seen().suspects.contains(name) && path.exists());
        if former.is_none() && !self.seen().suspects.contains(&segment) {
            return Ok(());
        }
        let (first, paths) = match former {
            Some((name, before)) => (name, vec![before, path]),
            None => (segment, vec![path]),
        };
        let source = WalSource { major: self.major, system_id: self.system_id, timeline: segment.timeline(), segment_size: self.segment_size };
        let mut walker = RecordWalker::in_segment(source, first.start(self.segment_size));
        let (mut created, mut is_over) = (Vec::new(), false);
        for path in paths {
            let bytes = fs::read(path).map_err(RestoreError::file("read", path))?;
            walker.feed(&bytes, |record| {
                is_over |= self.stops_before(&record);
                if let (RecordKind::TablespaceCreated { oid, location }, false) = (record.kind, is_over) {
                    created.push((oid, location, record.start));
                }
            });
        }
        for (oid, location, at) in created {
            // In place: a folder of the data directory.
            if !location.as_os_str().is_empty() && self.seen().done.insert(at) {
                self.make_room(oid, &location, at)?;
            }
        }
        Ok(())
    }

    /// What was moved to make room, from and to.
    pub(crate) fn moved(&self) -> Vec<(PathBuf, PathBuf)> {
        self.seen().moved.clone()
    }

    /// Whether recovery has stopped by then, and this record is never replayed.
    fn stops_before(&self, record: &Record) -> bool {
        match &self.stop {
            Stop::EndOfWal { at } | Stop::Before(at) => record.start >= *at,
            Stop::Time(time) => record.start >= self.consistent && record.kind.ended_at().is_some_and(|ended| ended > *time),
            Stop::Consistent => record.start >= self.consistent,
            // Right behind the restore point: it may have been given before the backup was consistent, too.
            Stop::Name(_) => false,
        }
    }

    fn make_room(&self, oid: u32, location: &Path, at: Lsn) -> Result<(), RestoreError> {
        if self.is_side {
            return Err(RestoreError::TablespaceCreated { oid, location: location.to_owned(), at });
        }
        if self.is_our_own(location)? {
            return Ok(());
        }
        if !location.exists() {
            return self.target.make_dir(location);
        }
        // Whose the folder is stays as it is: the server says when it is not its own.
        for (from, to) in clear_tablespace(location, SystemClock.now(), |_| false)? {
            self.events.tell(Event::Noticed { what: format!("{} was moved to {}", from.display(), to.display()) });
            self.seen().moved.push((from, to));
        }
        Ok(())
    }

    /// Whether a tablespace of the restored cluster lies there: one of the backup's, which the log drops before, or one that was replayed by a
    /// run that broke off.
    fn is_our_own(&self, location: &Path) -> Result<bool, RestoreError> {
        let links = self.target.data_dir.join("pg_tblspc");
        match fs::read_dir(&links) {
            Ok(found) => Ok(found.flatten().any(|link| fs::read_link(link.path()).is_ok_and(|place| place == location))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(RestoreError::file("read", &links)(e)),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
