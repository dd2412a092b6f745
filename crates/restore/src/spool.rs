//! Segments fetched before they were asked for, in a folder beside the data directory and never inside it: pg_rewind
//! and base backups look into pg_wal.
//!
//! One process at a time fills it and follows the server, which tells by `asked` how far it is. A segment gets its name
//! only when it is whole and on disk: a power loss leaves nothing that could be taken for one.

use crate::RestoreError;
use crate::fetch::{move_file, write_durably};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use repo::Reader;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use terms::{SegmentName, SegmentSize, SystemId, WalName};
use tokio::time::sleep;

/// The most segments that lie there, and the most bytes they may have.
const SEGMENTS_AHEAD: u64 = 16;
const BYTES_AHEAD: u64 = 512 << 20;
/// What filling may hold in memory: segments as they are and as they are stored.
const IN_MEMORY_BYTES: u64 = 64 << 20;
/// How long whoever fills stays when the server asks for nothing.
const LINGER: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How many segments of this size are kept ahead of the server.
fn ahead_of(size: SegmentSize) -> u64 {
    (BYTES_AHEAD / size.bytes()).clamp(2, SEGMENTS_AHEAD)
}

/// A folder of fetched segments of one cluster and one repository.
pub struct Spool(PathBuf);

impl Spool {
    /// The spool in this folder, which need not exist yet.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Where a segment lies once it is whole.
    fn place(&self, name: &WalName) -> PathBuf {
        self.0.join(name.to_string())
    }

    /// Says that a segment is on its way.
    fn coming(&self, name: &WalName) -> PathBuf {
        self.0.join(format!("{name}.coming"))
    }

    fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Hands over a segment that is there; false when it is not.
    pub fn take(&self, name: &WalName, to: &Path) -> io::Result<bool> {
        match move_file(&self.place(name), to) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether a segment that is not there is on its way.
    pub fn is_coming(&self, name: &WalName) -> bool {
        self.coming(name).exists() && self.is_filled()
    }

    /// Whether some process fills the spool now.
    pub fn is_filled(&self) -> bool {
        File::open(self.lock()).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Whether less than half of what may lie ahead of `got` is there.
    pub fn is_low(&self, got: SegmentName, size: SegmentSize) -> bool {
        let first = got.number(size) + 1;
        let next = (first..first + ahead_of(size)).map(|number| WalName::Segment(SegmentName::numbered(number, got.timeline(), size)));
        next.filter(|name| self.place(name).exists()).count() as u64 <= ahead_of(size) / 2
    }

    /// Tells whoever fills the spool what the server has got.
    pub fn tell(&self, got: SegmentName) -> io::Result<()> {
        match fs::write(self.0.join("asked"), got.to_string()) {
            // Nobody fills it, so nobody has to know.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn told(&self) -> Option<SegmentName> {
        fs::read_to_string(self.0.join("asked")).ok()?.parse().ok()
    }

    /// Keeps the spool filled with what follows `from`, then with what follows whatever the server got last, until one is
    /// not stored or the server asks no more. One process at a time; a second one leaves at once.
    pub async fn fill(&self, reader: &Reader, system_id: SystemId, from: SegmentName, size: SegmentSize, jobs: usize) -> Result<(), RestoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(RestoreError::file("create", &self.0))?;
        let held = File::create(self.lock()).map_err(RestoreError::file("create", self.lock()))?;
        // Whoever only looks whether somebody is at it holds the lock for a moment.
        let mut tries = 0;
        while flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            tries += 1;
            if tries > 10 {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        drop(self.tell(from));
        let jobs = jobs.min((IN_MEMORY_BYTES / (2 * size.bytes())) as usize).max(1);
        let (mut at, mut moved) = (from, Instant::now());
        let mut begun = BTreeSet::new();
        let mut under_way = FuturesUnordered::new();
        let mut is_over = false;
        self.forget_halves();
        self.forget_others(at, size);
        loop {
            if let Some(told) = self.told().filter(|told| *told != at) {
                (at, moved) = (told, Instant::now());
                self.forget_others(at, size);
            }
            let window = at.number(size) + 1..=at.number(size) + ahead_of(size);
            for number in window {
                let name = SegmentName::numbered(number, at.timeline(), size);
                if is_over || under_way.len() >= jobs || !begun.insert(name) {
                    continue;
                }
                let name = WalName::Segment(name);
                if !self.place(&name).exists() {
                    drop(File::create(self.coming(&name)));
                    under_way.push(async move {
                        let fetched = self.bring(reader, system_id, &name).await;
                        drop(fs::remove_file(self.coming(&name)));
                        fetched
                    });
                }
            }
            if under_way.is_empty() {
                if is_over || moved.elapsed() > LINGER {
                    return Ok(());
                }
                sleep(LOOK_EVERY).await;
                continue;
            }
            tokio::select! {
                // The log ends here, for now: what is under way still arrives.
                Some(fetched) = under_way.next() => is_over |= !fetched?,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Fetches one segment into the spool; false when it is not stored.
    async fn bring(&self, reader: &Reader, system_id: SystemId, name: &WalName) -> Result<bool, RestoreError> {
        // Whoever asks for it in earnest gets the error.
        let Some(bytes) = reader.fetch_wal(system_id, name).await? else { return Ok(false) };
        let place = self.place(name);
        let wrote = tokio::task::spawn_blocking(move || write_durably(&place, &bytes, None)).await.map_err(|e| RestoreError::Bug(e.to_string()))?;
        wrote.map_err(|e| RestoreError::Fetch { name: name.to_string(), why: e.to_string() })?;
        Ok(true)
    }

    /// Segments that were passed by would lie here for ever.
    fn forget_others(&self, at: SegmentName, size: SegmentSize) {
        let near = at.number(size)..=at.number(size) + ahead_of(size);
        self.forget(|file| file.parse().is_ok_and(|name: SegmentName| name.timeline() != at.timeline() || !near.contains(&name.number(size))));
    }

    /// What a process left that was killed.
    fn forget_halves(&self) {
        self.forget(|file| file.ends_with(".coming") || file.ends_with(".bowline"));
    }

    fn forget(&self, is_needless: impl Fn(&str) -> bool) {
        for item in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if item.file_name().to_str().is_some_and(&is_needless) {
                drop(fs::remove_file(item.path()));
            }
        }
    }
}
