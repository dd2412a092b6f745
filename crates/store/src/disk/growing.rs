//! Files that grow: one write and one sync for each addition, where a file of its own would take five system calls and two syncs.

use super::files::{Tree, sync_folder};
use crate::{Growing, ObjectPath, StoreError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Zeros are written so far ahead of small additions: syncing what overwrites them leaves the file's length and its map of blocks
/// alone, where each growth is a transaction of the filesystem.
const AHEAD_BYTES: usize = 256 << 10;
/// Larger additions are few: for them nothing is written twice.
const SMALL_BYTES: usize = 16 << 10;

/// One file that is added to.
pub(super) struct DiskGrowing {
    tree: Arc<Tree>,
    path: ObjectPath,
    file: File,
    /// How many bytes were added.
    length: u64,
    /// How long the file is: zeros follow what was added.
    reserved: u64,
    /// Whether its name and its inode are durable: something was added.
    is_named: bool,
    is_broken: bool,
}

impl DiskGrowing {
    pub(super) fn begin(tree: Arc<Tree>, path: &ObjectPath) -> Result<Self, StoreError> {
        let made = tree.with_folder(path, "write", |target, _| match OpenOptions::new().write(true).create_new(true).mode(0o600).open(target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            result => result.map(Some),
        })?;
        match made {
            Some(file) => Ok(Self { tree, path: path.clone(), file, length: 0, reserved: 0, is_named: false, is_broken: false }),
            None => Err(StoreError::Exists { store: tree.address().to_owned(), path: path.to_string() }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.length + bytes.len() as u64;
        if end > self.reserved && bytes.len() < SMALL_BYTES {
            self.file.write_all_at(&[bytes, &[0; AHEAD_BYTES]].concat(), self.length)?;
            self.reserved = end + AHEAD_BYTES as u64;
        } else {
            self.file.write_all_at(bytes, self.length)?;
            self.reserved = self.reserved.max(end);
        }
        let place = self.tree.place(&self.path);
        if self.is_named {
            // The length is synced with the bytes, times are not (fdatasync, manual section 2).
            self.file.sync_data()?;
        } else {
            self.file.sync_all()?;
            place.parent().map_or(Ok(()), sync_folder)?;
        }
        // An open file goes on taking bytes after it, or the repository, was moved away or removed: nobody would find them.
        if !self.is_in_its_place(&place)? {
            return Err(io::Error::new(ErrorKind::NotFound, "another file is in its place"));
        }
        self.is_named = true;
        self.length = end;
        Ok(())
    }

    fn is_in_its_place(&self, place: &Path) -> io::Result<bool> {
        let (ours, named) = (self.file.metadata()?, fs::symlink_metadata(place)?);
        Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
    }
}

impl Drop for DiskGrowing {
    fn drop(&mut self) {
        // Whoever reads it is not misled by the zeros: they stay when the process is killed, or when cutting them off fails.
        if self.is_named && !self.is_broken && self.reserved > self.length {
            let _ = self.file.set_len(self.length);
        }
        // Nothing in it was ever confirmed, and a full disk would be littered with such.
        let place = self.tree.place(&self.path);
        if !self.is_named && self.is_in_its_place(&place).unwrap_or(false) {
            let _ = fs::remove_file(place);
        }
    }
}

impl Growing for DiskGrowing {
    fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.is_broken {
            let why = "an earlier addition to it failed".to_owned();
            return Err(StoreError::Failed { store: self.tree.address().to_owned(), operation: "write", path: self.path.to_string(), why });
        }
        let wrote = self.write(bytes);
        self.is_broken = wrote.is_err();
        wrote.map_err(|error| self.tree.fail("write", &self.path, &error))
    }
}
