//! Breaks objects of a repository in a folder, puts them right again, and looks whether a server was promoted all the same.

use crate::bowline::flip_a_bit;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One bit in its middle.
    Flipped,
    /// Its second half is gone.
    Truncated,
    /// There is no such object any more.
    Deleted,
    /// Another object lies under its name.
    Replaced,
}

/// An object that is broken for as long as this lives.
#[derive(Debug)]
pub struct Broken {
    path: PathBuf,
    good: Vec<u8>,
    owner: (u32, u32),
}

impl Broken {
    /// Breaks the object; `other` is what replaces it where it is replaced.
    pub fn new(path: &Path, kind: Kind, other: &Path) -> Self {
        let good = fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let meta = fs::metadata(path).expect("metadata");
        match kind {
            Kind::Flipped => flip_a_bit(path),
            Kind::Truncated => fs::write(path, &good[..good.len() / 2]).expect("truncate"),
            Kind::Deleted => fs::remove_file(path).expect("remove"),
            Kind::Replaced => drop(fs::copy(other, path).expect("replace")),
        }
        Self { path: path.to_owned(), good, owner: (meta.uid(), meta.gid()) }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        fs::write(&self.path, &self.good).expect("put the object right");
        chown(&self.path, Some(self.owner.0), Some(self.owner.1)).expect("chown");
    }
}

/// No server is left on this data directory, and none was ever promoted there ([`never_promoted`]).
pub fn left_alone(data: &Path, timeline: u32, what: &str) {
    assert!(!data.join("postmaster.pid").exists(), "{what}: a server is left on {}", data.display());
    never_promoted(data, timeline, what);
}

/// No server, which may still run, ended recovery on this data directory on the timeline after `timeline`: that would have left its
/// history and segments behind.
pub fn never_promoted(data: &Path, timeline: u32, what: &str) {
    let newer = format!("{:08X}", timeline + 1);
    let files = fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten();
    let grown: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with(&newer)).collect();
    assert!(grown.is_empty(), "{what}: {} was promoted: {grown:?}", data.display());
}
