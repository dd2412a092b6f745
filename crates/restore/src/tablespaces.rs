//! Tablespaces that the log creates. Its replay links them to where they were made, whatever the restore has put elsewhere: beside the
//! server that still uses that place the copy's replay would write into its files, and in place onto those of the old cluster. So before
//! the server is given the log that does it, the place is looked at.

use crate::RestoreError;
use crate::target::{Target, move_aside};
use pg::wal::{RecordKind, RecordWalker, WalSource, may_create_tablespace};
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use terms::{Clock, Event, Events, SegmentName, SegmentSize, SystemClock, SystemId};

/// Looks at what each segment is about to do.
pub(crate) struct Lookout {
    target: Target,
    /// What is there may be a running server's.
    is_side: bool,
    major: u32,
    system_id: SystemId,
    segment_size: SegmentSize,
    /// Segments that may create one.
    suspects: Mutex<HashSet<SegmentName>>,
    events: Arc<dyn Events>,
}

impl Lookout {
    pub(crate) fn new(target: &Target, is_side: bool, major: u32, system_id: SystemId, segment_size: SegmentSize, events: Arc<dyn Events>) -> Self {
        Self { target: target.clone(), is_side, major, system_id, segment_size, suspects: Mutex::default(), events }
    }

    /// A segment was fetched.
    pub(crate) fn glance(&self, segment: SegmentName, bytes: &[u8]) {
        if may_create_tablespace(bytes) {
            self.suspects().insert(segment);
        }
    }

    /// The server is about to get `segment`, which lies at `path`; `former` is the one before it, where that still lies.
    pub(crate) fn look(&self, segment: SegmentName, path: &Path, former: Option<(SegmentName, &Path)>) -> Result<(), RestoreError> {
        // A record that begins in the former one may end here.
        let former = former.filter(|(name, path)| self.suspects().contains(name) && path.exists());
        if former.is_none() && !self.suspects().contains(&segment) {
            return Ok(());
        }
        let (first, paths) = match former {
            Some((name, before)) => (name, vec![before, path]),
            None => (segment, vec![path]),
        };
        let source = WalSource { major: self.major, system_id: self.system_id, timeline: segment.timeline(), segment_size: self.segment_size };
        let mut walker = RecordWalker::in_segment(source, first.start(self.segment_size));
        let mut created = Vec::new();
        for path in paths {
            let bytes = fs::read(path).map_err(RestoreError::file("read", path))?;
            walker.feed(&bytes, |record| {
                if let RecordKind::TablespaceCreated { oid, location } = record.kind {
                    created.push((oid, location, record.start));
                }
            });
        }
        created.into_iter().try_for_each(|(oid, location, at)| match location.as_os_str().is_empty() {
            // In place: a folder of the data directory.
            true => Ok(()),
            false => self.make_room(oid, &location).map_err(|why| why.into_error(oid, &location, at)),
        })
    }

    fn make_room(&self, oid: u32, location: &Path) -> Result<(), Why> {
        let link = self.target.data_dir.join("pg_tblspc").join(oid.to_string());
        if fs::read_link(&link).is_ok_and(|now| now == location) {
            // What lies there is this restore's own, or it has been replayed before.
            return Ok(());
        }
        let there = match fs::read_dir(location) {
            Ok(there) => there,
            Err(e) if e.kind() == ErrorKind::NotFound && !self.is_side => {
                self.target.make_dir(location)?;
                return Ok(());
            }
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(Why::Absent),
            Err(e) => return Err(RestoreError::file("read", location)(e).into()),
        };
        // Only a PostgreSQL's own is in the way.
        let is_in_the_way = |name: &str| name.starts_with("PG_") && !name.contains(".before-");
        for item in there.flatten().filter(|item| is_in_the_way(&item.file_name().to_string_lossy())) {
            if self.is_side {
                return Err(Why::Used);
            }
            let to = move_aside(&item.path(), SystemClock.now())?;
            self.events.tell(Event::Noticed { what: format!("{} was moved to {}", item.path().display(), to.display()) });
        }
        let owner = self.target.owner;
        Ok(chown(location, Some(owner.uid), Some(owner.gid)).map_err(RestoreError::file("own", location))?)
    }

    fn suspects(&self) -> std::sync::MutexGuard<'_, HashSet<SegmentName>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no room.
enum Why {
    Used,
    Absent,
    Other(RestoreError),
}

impl From<RestoreError> for Why {
    fn from(why: RestoreError) -> Self {
        Self::Other(why)
    }
}

impl Why {
    fn into_error(self, oid: u32, location: &Path, at: terms::Lsn) -> RestoreError {
        let used = match self {
            Self::Other(why) => return why,
            Self::Used => true,
            Self::Absent => false,
        };
        RestoreError::TablespaceCreated { oid, location: location.to_owned(), at, used }
    }
}
