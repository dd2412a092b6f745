//! Damages one object of a repository in a folder at a time, of every kind that there is, and puts it right again.

use crate::bowline::files_below;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What objects of a repository there are, by the place they lie in (docs/format.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `repository.json`.
    Repository,
    /// A wrapped data key.
    Key,
    /// `backup.json`, which lists a backup.
    BackupDocument,
    /// What a backup holds, line by line.
    Manifest,
    /// Files' bytes of a backup.
    Pack,
    /// A whole segment of WAL.
    Segment,
    /// Part of a segment, stored before it was full.
    Piece,
    /// A timeline's history file.
    History,
    /// What is known of many segments, so that nobody need read them.
    Index,
    /// How far WAL is complete, of the present cluster or an earlier one.
    Coverage,
    /// Whose turn it is.
    Lease,
    /// Of a drill, as JSON or as a page.
    Report,
    /// The configuration that was in force from a time on, as a user wrote it.
    Configuration,
    /// What to do when all is lost, for people.
    Runbook,
    /// What scrubbing remembers.
    ScrubRecord,
    /// A document of the ledger.
    Run,
    /// What expiry and the watch on room remember.
    Record,
}

/// The kind of the object at this path; `None` when nobody thought of it, which a test should notice.
pub fn kind_of(repository: &Path, object: &Path) -> Option<Kind> {
    let parts: Vec<&str> = object.strip_prefix(repository).ok()?.iter().filter_map(|part| part.to_str()).collect();
    Some(match parts.as_slice() {
        ["repository.json"] => Kind::Repository,
        ["coverage.json"] | ["wal", _, "coverage.json"] => Kind::Coverage,
        ["keys", _] => Kind::Key,
        ["leases", ..] => Kind::Lease,
        ["drills", ..] => Kind::Report,
        ["config", _] => Kind::Configuration,
        ["runbook", ..] => Kind::Runbook,
        ["scrub", ..] => Kind::ScrubRecord,
        ["runs", ..] => Kind::Run,
        ["capacity.json" | "retention.json"] | ["alerts", ..] => Kind::Record,
        ["full", _, "backup.json"] => Kind::BackupDocument,
        ["full", _, "manifest"] => Kind::Manifest,
        ["full", _, "data", _] => Kind::Pack,
        ["wal", _, name] if name.ends_with(".history") => Kind::History,
        ["wal", _, _, "index", _] => Kind::Index,
        ["wal", _, _, folder, _] if folder.ends_with(".pieces") => Kind::Piece,
        ["wal", _, _, name] if name.len() == 24 => Kind::Segment,
        _ => return None,
    })
}

/// Every object of the repository by its kind. Panics at one of no known kind.
pub fn objects(repository: &Path) -> BTreeMap<Kind, Vec<PathBuf>> {
    let mut found: BTreeMap<Kind, Vec<PathBuf>> = BTreeMap::new();
    for object in files_below(repository) {
        // What the store writes beside an object while it is made is none yet.
        if object.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let kind = kind_of(repository, &object).unwrap_or_else(|| panic!("{} is of no known kind", object.display()));
        found.entry(kind).or_default().push(object);
    }
    found
}

/// An object with one bit flipped; dropping this puts the good bytes back.
#[derive(Debug)]
pub struct Flipped {
    path: PathBuf,
    good: Vec<u8>,
}

impl Flipped {
    /// Flips a bit of the byte at this part of the object, from 0 (its first byte) to 1 (its last).
    pub fn at(path: &Path, part: f64) -> Self {
        let good = fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        assert!(!good.is_empty(), "{} is empty: nothing can be flipped in it", path.display());
        let mut bad = good.clone();
        let at = ((good.len() - 1) as f64 * part.clamp(0.0, 1.0)) as usize;
        bad[at] ^= 1;
        fs::write(path, bad).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        Self { path: path.to_owned(), good }
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        if let Err(e) = fs::write(&self.path, &self.good) {
            eprintln!("{} could not be put right again: {e}", self.path.display());
        }
    }
}
