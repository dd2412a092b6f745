//! Large files that several threads append to, and the few threads that make finished ones durable.

use super::files::{Tree, sync_folder};
use crate::pending::{Pending, Ticket};
use crate::{ObjectPath, ObjectSink, StoreError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

/// Threads that wait in fsync; more of them only make the disk seek more.
const SYNC_THREADS: usize = 2;
/// Finished files that wait for them: the bound on open files, and on what a crash can lose.
const QUEUE: usize = 8;
/// After so many bytes the kernel is asked to start writing, so that the last fsync finds little left to do.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Makes finished files durable in the background.
pub(super) struct Syncer {
    tree: Arc<Tree>,
    pending: Arc<Pending>,
    queue: OnceLock<SyncSender<Finished>>,
}

impl Syncer {
    /// Without threads until the first object begins.
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        Self { tree, pending: Pending::new(), queue: OnceLock::new() }
    }

    /// Makes the object's file, under its own name at once.
    pub(super) fn begin(&self, path: &ObjectPath) -> Result<Arc<dyn ObjectSink>, StoreError> {
        let made =
            self.tree.with_folder(path, "write", |target, _| match OpenOptions::new().write(true).create_new(true).mode(0o600).open(target) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
                result => result.map(Some),
            })?;
        let Some(file) = made else {
            return Err(StoreError::Exists { store: self.tree.address().to_owned(), path: path.to_string() });
        };
        Ok(Arc::new(DiskSink {
            tree: Arc::clone(&self.tree),
            pending: Arc::clone(&self.pending),
            queue: self.queue.get_or_init(|| start_threads(&self.tree)).clone(),
            path: path.clone(),
            file: Mutex::new(Some(Arc::new(file))),
            length: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
        }))
    }

    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        self.pending.settle().await
    }
}

struct Finished {
    file: Arc<File>,
    path: ObjectPath,
    ticket: Ticket,
}

struct DiskSink {
    tree: Arc<Tree>,
    pending: Arc<Pending>,
    queue: SyncSender<Finished>,
    path: ObjectPath,
    /// Taken by `finish`; appends hold it only to clone it.
    file: Mutex<Option<Arc<File>>>,
    length: AtomicU64,
    is_broken: AtomicBool,
}

impl ObjectSink for DiskSink {
    fn append(&self, bytes: &[u8]) -> Result<u64, StoreError> {
        let file = self.file.lock().expect("no holder panics").clone();
        let file = file.ok_or_else(|| self.misused("it is finished already"))?;
        let length = bytes.len() as u64;
        let offset = self.length.fetch_add(length, Ordering::Relaxed);
        if let Err(error) = file.write_all_at(bytes, offset) {
            // The hole it leaves must never become part of a finished object.
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(self.tree.fail("write", &self.path, &error));
        }
        let (before, now) = (offset / WRITEBACK_BYTES, (offset + length) / WRITEBACK_BYTES);
        if now > before {
            start_writeback(&file, before * WRITEBACK_BYTES, (now - before) * WRITEBACK_BYTES);
        }
        Ok(offset)
    }

    fn finish(&self) -> Result<(), StoreError> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(self.misused("an append to it failed"));
        }
        let file = self.file.lock().expect("no holder panics").take();
        let file = file.ok_or_else(|| self.misused("it is finished already"))?;
        let ticket = self.pending.start(self.misused("the thread that makes it durable is gone"));
        // When the channel is closed the dropped ticket tells it to settle().
        self.queue.send(Finished { file, path: self.path.clone(), ticket }).map_err(|_| self.misused("the thread that makes it durable is gone"))
    }
}

impl DiskSink {
    fn misused(&self, why: &str) -> StoreError {
        StoreError::Failed { store: self.tree.address().to_owned(), operation: "write", path: self.path.to_string(), why: why.to_owned() }
    }
}

impl Drop for DiskSink {
    fn drop(&mut self) {
        // Still here: never finished, so nobody may see it. It was made by this sink and by no other.
        if self.file.lock().is_ok_and(|file| file.is_some()) {
            let _ = fs::remove_file(self.tree.place(&self.path));
        }
    }
}

fn start_threads(tree: &Arc<Tree>) -> SyncSender<Finished> {
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..SYNC_THREADS {
        let (tree, receiver) = (Arc::clone(tree), Arc::clone(&receiver));
        // A thread that does not start leaves the others; if none does, the channel closes and finish() says so.
        let _ = std::thread::Builder::new().name("store-sync".to_owned()).spawn(move || sync_all(&tree, &receiver));
    }
    sender
}

fn sync_all(tree: &Tree, receiver: &Mutex<Receiver<Finished>>) {
    loop {
        let next = receiver.lock().expect("no holder panics").recv();
        let Ok(Finished { file, path, ticket }) = next else { return };
        let place = tree.place(&path);
        let result = sync(&file, &place);
        if result.is_err() {
            // Not durable, and its owner will be told: it must not be taken for an object.
            let _ = fs::remove_file(&place);
        }
        ticket.end(result.map_err(|error| tree.fail("write", &path, &error)));
    }
}

fn sync(file: &File, place: &Path) -> io::Result<()> {
    file.sync_all()?;
    place.parent().map_or(Ok(()), sync_folder)
}

/// Asks the kernel to start writing these bytes to the disk, without waiting and without dropping them from memory.
fn start_writeback(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    // SAFETY: the descriptor is open while `file` is borrowed, and the call touches no memory of ours.
    unsafe {
        // Only advice: what it cannot do, the fsync at the end does.
        libc::sync_file_range(file.as_raw_fd(), offset as i64, length as i64, libc::SYNC_FILE_RANGE_WRITE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file.as_raw_fd(), offset, length);
}
