//! Reads, makes, replaces and removes single files so that each step is atomic and, once told, durable.

use crate::token::token;
use crate::{Created, ObjectInfo, ObjectPath, StoreError, Version};
use bytes::Bytes;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use terms::Timestamp;

/// What temporary files' names begin with.
pub(super) const TEMPORARY: &str = ".tmp-";
/// What lock files' names begin with.
pub(super) const LOCK: &str = ".lock-";
/// A holder of a lock file needs microseconds; one that is stopped must not stop everybody.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How often an operation starts again because upkeep removed the emptied folder under it.
const FOLDER_TRIES: usize = 8;
/// Above this many folders known durable the memory of them starts afresh.
const FOLDERS_KNOWN_MAX: usize = 10_000;

/// The files below one root.
pub(super) struct Tree {
    root: PathBuf,
    address: String,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Tree {
    pub(super) fn new(root: PathBuf) -> Self {
        let address = format!("file://{}", root.display());
        Self { root, address, durable: Mutex::default() }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
    pub(super) fn place(&self, path: &ObjectPath) -> PathBuf {
        self.root.join(path.as_str())
    }

    /// Makes the root in a parent that exists.
    pub(super) fn create_root(&self) -> Result<(), StoreError> {
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            let why = format!("its parent folder {} is not there either", parent.display());
            return Err(StoreError::NoStore { store: self.address.clone(), why });
        }
        match DirBuilder::new().mode(0o700).create(&self.root) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.root.is_dir() => {}
            Err(error) => return Err(self.fail("create", "the folder itself", &error)),
            Ok(()) => {}
        }
        sync_folder(parent).map_err(|error| self.fail("create", "the folder itself", &error))
    }

    pub(super) fn read(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        let read = || {
            let mut file = File::open(self.place(path))?;
            let mut body = Vec::with_capacity(file.metadata()?.len() as usize);
            file.read_to_end(&mut body)?;
            Ok(Bytes::from(body))
        };
        read().map_err(|error: io::Error| self.fail("read", path, &error))
    }

    pub(super) fn read_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        let fail = |error: io::Error| self.fail("read", path, &error);
        let truncated = |found| StoreError::Truncated { store: self.address.clone(), path: path.to_string(), wanted: range.end, found };
        let file = File::open(self.place(path)).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        // Asked before the buffer is made: a damaged index may ask for exabytes.
        if range.end > length || range.start > range.end {
            return Err(truncated(length));
        }
        let mut body = vec![0; (range.end - range.start) as usize];
        match file.read_exact_at(&mut body, range.start) {
            Ok(()) => Ok(Bytes::from(body)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(truncated(file.metadata().map_err(fail)?.len())),
            Err(error) => Err(fail(error)),
        }
    }

    pub(super) fn info(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, StoreError> {
        match fs::symlink_metadata(self.place(path)) {
            Ok(found) if found.is_file() => Ok(Some(info(path.clone(), &found))),
            Ok(_) => Ok(None),
            Err(error) => match self.fail("read", path, &error) {
                StoreError::Missing { .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    pub(super) fn put_new(&self, path: &ObjectPath, body: &[u8]) -> Result<Created, StoreError> {
        self.with_folder(path, "write", |target, folder| {
            if fs::symlink_metadata(target).is_err() {
                let temporary = Temporary::write(folder, body)?;
                temporary.file.sync_all()?;
                if temporary.publish_new(target)? {
                    sync_folder(folder)?;
                    return Ok(Created::New);
                }
            }
            // The caller may count on the other's object too, so it must be as durable as one's own.
            File::open(target)?.sync_all()?;
            sync_folder(folder)?;
            Ok(Created::AlreadyThere)
        })
    }

    pub(super) fn harden(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let target = self.place(path);
        let folder = target.parent().unwrap_or(&self.root);
        let harden = || {
            // First of all: where it is missing, no folder must be made for it.
            File::open(&target)?.sync_all()?;
            self.ensure_folder(folder)?;
            sync_folder(folder)
        };
        harden().map_err(|error| self.fail("make durable", path, &error))
    }

    pub(super) fn replace(&self, path: &ObjectPath, body: &[u8], expected: Option<&Version>) -> Result<Option<Version>, StoreError> {
        let lock_name = format!("{LOCK}{}", path.name());
        self.with_folder(path, "replace", |target, folder| {
            let found = found(target)?;
            if found.as_ref().map(version).as_ref() != expected {
                return Ok(None);
            }
            // Written before the lock is asked for: a process that is stopped while it holds the lock stops everybody else,
            // so it holds it for a look and a rename.
            let temporary = Temporary::write(folder, body)?;
            if let Some(found) = &found {
                make_later(&temporary.file, found)?;
            }
            temporary.file.sync_all()?;
            let made = version(&temporary.file.metadata()?);
            if !publish_if(&temporary, target, &folder.join(&lock_name), expected)? {
                return Ok(None);
            }
            sync_folder(folder)?;
            Ok(Some(made))
        })
    }

    pub(super) fn remove(&self, path: &ObjectPath) -> Result<(), StoreError> {
        let target = self.place(path);
        match fs::remove_file(&target) {
            Ok(()) => {}
            Err(error) => match self.fail("remove", path, &error) {
                StoreError::Missing { .. } => return Ok(()),
                other => return Err(other),
            },
        }
        // What is removed must stay removed before the next removal, else a listed backup may lack its bytes after a power loss.
        // Buckets have no empty folders, so an emptied one goes too; whoever is about to write there makes it again.
        let mut folder = target.parent().unwrap_or(&self.root);
        loop {
            match sync_folder(folder) {
                Ok(()) => {}
                // Another remover found it empty; the entry that went with it is the one above's.
                Err(error) if error.kind() == ErrorKind::NotFound && folder != self.root => {}
                Err(error) => return Err(self.fail("remove", path, &error)),
            }
            let is_gone = folder != self.root && (fs::remove_dir(folder).is_ok() || !folder.exists());
            if !is_gone {
                return Ok(());
            }
            self.durable().remove(folder);
            folder = folder.parent().unwrap_or(&self.root);
        }
    }

    /// Runs `work(target, folder)` with the folder made, again if it was removed meanwhile.
    pub(super) fn with_folder<T>(
        &self,
        path: &ObjectPath,
        operation: &'static str,
        mut work: impl FnMut(&Path, &Path) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let target = self.place(path);
        let folder = target.parent().unwrap_or(&self.root);
        for _ in 1..FOLDER_TRIES {
            match self.ensure_folder(folder).and_then(|()| work(&target, folder)) {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() == ErrorKind::NotFound && self.root.is_dir() => self.durable().clear(),
                Err(error) => return Err(self.fail(operation, path, &error)),
            }
        }
        let last = self.ensure_folder(folder).and_then(|()| work(&target, folder));
        last.map_err(|error| self.fail(operation, path, &error))
    }

    /// Makes `folder` and those above it, up to the root, and their entries durable.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        if self.durable().contains(folder) {
            return Ok(());
        }
        let below = folder.strip_prefix(&self.root).map_err(io::Error::other)?;
        let mut at = self.root.clone();
        for part in below.components() {
            let parent = at.clone();
            at.push(part);
            if self.durable().contains(&at) {
                continue;
            }
            match DirBuilder::new().mode(0o700).create(&at) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                // One that is there may be another process's, not yet durable.
                _ => sync_folder(&parent)?,
            }
            let mut durable = self.durable();
            if durable.len() >= FOLDERS_KNOWN_MAX {
                durable.clear();
            }
            durable.insert(at.clone());
        }
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().expect("no holder panics")
    }

    /// What an error of the operating system means for the object.
    pub(super) fn fail(&self, operation: &'static str, path: impl std::fmt::Display, error: &io::Error) -> StoreError {
        let (store, path, why) = (self.address.clone(), path.to_string(), error.to_string());
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) if self.root.is_dir() => StoreError::Missing { store, path },
            Some(Errno::NOENT | Errno::NOTDIR) => {
                let why = format!("the folder {} is not there", self.root.display());
                StoreError::NoStore { store, why }
            }
            Some(Errno::ISDIR) => StoreError::Missing { store, path },
            Some(Errno::NOSPC | Errno::DQUOT) => StoreError::Full { store, operation, path, why },
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreError::Denied { store, operation, path, why },
            Some(Errno::STALE | Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::NOTCONN) => {
                StoreError::Unreachable { store, operation, path, why }
            }
            _ if error.kind() == ErrorKind::TimedOut => StoreError::Unreachable { store, operation, path, why },
            _ => StoreError::Failed { store, operation, path, why },
        }
    }
}

/// What the file system says of an object.
pub(super) fn info(path: ObjectPath, found: &Metadata) -> ObjectInfo {
    let micros = found.mtime().saturating_mul(1_000_000).saturating_add(found.mtime_nsec() / 1_000);
    ObjectInfo { path, bytes: found.len(), modified: Timestamp::from_unix_micros(micros), version: version(found) }
}

/// Makes a folder's entries durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot sync folders; PostgreSQL lives with that too (fsync_fname, src/common/file_utils.c).
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::INVAL | Errno::BADF)) => Ok(()),
        result => result,
    }
}

/// The moment of the last write, the length and the file itself. Replacing moves the moment forward each time,
/// so no two versions of an object look alike, however fast they follow.
fn version(found: &Metadata) -> Version {
    Version(format!("{:x}.{:09}-{:x}-{:x}", found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
}

/// Makes the file's time of modification later than the replaced one's, in the steps this file system can tell apart.
fn make_later(file: &File, replaced: &Metadata) -> io::Result<()> {
    let moment = |of: &Metadata| (of.mtime(), of.mtime_nsec());
    let before: SystemTime = replaced.modified()?;
    for step_nanoseconds in [1, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000] {
        if moment(&file.metadata()?) > moment(replaced) {
            return Ok(());
        }
        file.set_modified(before + Duration::from_nanos(step_nanoseconds))?;
    }
    Ok(())
}

/// What is there now; none when nothing is.
fn found(target: &Path) -> io::Result<Option<Metadata>> {
    match File::open(target) {
        Ok(file) => Ok(Some(file.metadata()?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the file its name if what is there has this version; whether it had.
fn publish_if(temporary: &Temporary, target: &Path, lock_file: &Path, expected: Option<&Version>) -> io::Result<bool> {
    let _lock = lock(lock_file)?;
    match expected {
        _ if found(target)?.as_ref().map(version).as_ref() != expected => Ok(false),
        Some(_) => temporary.publish_over(target).map(|()| true),
        // put_new does not take the lock.
        None => temporary.publish_new(target),
    }
}

/// Holds the lock file until dropped.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            Err(Errno::WOULDBLOCK) => {
                let why = format!("another process has held {} for {} s", path.display(), LOCK_PATIENCE.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file under a hidden name, removed again unless it gets its own.
struct Temporary {
    file: File,
    path: PathBuf,
    /// The hidden name is gone: nothing is left to remove.
    is_renamed: Cell<bool>,
}

impl Temporary {
    fn write(folder: &Path, body: &[u8]) -> io::Result<Self> {
        let path = folder.join(format!("{TEMPORARY}{}", token()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut made = Self { file, path, is_renamed: Cell::new(false) };
        made.file.write_all(body)?;
        Ok(made)
    }

    /// Gives the file its name unless that is taken; whether it was free.
    fn publish_new(&self, target: &Path) -> io::Result<bool> {
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(!self.is_renamed.replace(true)),
            Err(Errno::EXIST) => Ok(false),
            // This file system cannot refuse to replace (NFS): a second link can.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::hard_link(&self.path, target) {
                Ok(()) => Ok(true),
                // Over NFS the answer to a link that was made may get lost and its repetition be refused.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(self.file.metadata()?.nlink() == 2),
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn publish_over(&self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.is_renamed.set(true);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A second link leaves the hidden name, and so does every failure.
        if !self.is_renamed.get() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
