//! Reads a manifest and hands out what it names: directories and links are made here, chunks go to the workers in spans.

use crate::RestoreError;
use crate::delta::Ground;
use crate::files::{CONTROL_FILE_LATER, Restored, TablespaceMap};
use crate::paths::{decode, inside, stays_inside};
use crate::place::{Item, PackHandle, Place, Shared, Span};
use crate::target::clear_tablespace;
use crossbeam_channel::Sender;
use pg::CONTROL_FILE;
use repo::{ChunkRef, Entry, FileBody, ManifestReader};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use terms::{Event, Events, SnapshotOfProgress, Timestamp};

/// Neighbouring frames are fetched together up to this many stored bytes (4 MiB), and no more than so many at once.
const SPAN_BYTES: u64 = 4 << 20;
const SPAN_ITEMS: usize = 256;

pub(crate) struct Feeder<'a> {
    shared: &'a Arc<Shared>,
    spans: Sender<Span>,
    tablespaces: &'a TablespaceMap,
    now: Timestamp,
    chunk_bytes: u64,
    ground: Ground,
    open: Option<Span>,
    /// Of the data directory itself, which no manifest names: the server takes it for all that it makes (`initdb -g`).
    root_mode: u32,
    restored: Restored,
    /// A path on each filesystem that was written to.
    filesystems: Vec<PathBuf>,
}

impl<'a> Feeder<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        spans: Sender<Span>,
        tablespaces: &'a TablespaceMap,
        now: Timestamp,
        chunk_bytes: u64,
        ground: Ground,
    ) -> Self {
        let filesystems = std::iter::once(shared.target.data_dir.clone()).chain(ground.wal_elsewhere.clone()).collect();
        Self { shared, spans, tablespaces, now, chunk_bytes, ground, open: None, root_mode: 0o700, restored: Restored::default(), filesystems }
    }

    /// Lets the workers come to their end; returns what was fed, and a path on each filesystem that was written to.
    pub(crate) fn end(self) -> (Restored, Vec<PathBuf>) {
        (self.restored, self.filesystems)
    }

    pub(crate) fn run(&mut self, mut manifest: ManifestReader, total_bytes: u64, events: &dyn Events) -> Result<(), RestoreError> {
        while let Some(entry) = self.shared.runtime.block_on(manifest.next())? {
            match entry {
                Entry::Dir { path, mode } => {
                    let path = inside(&path)?;
                    // Made by initdb like the one around it, and there in every cluster.
                    if path == Path::new("base") {
                        self.root_mode = root_mode(mode);
                    }
                    self.directory(&path, mode)?;
                }
                Entry::Tablespace { oid, location } => self.tablespace(oid, &location)?,
                Entry::File(body) => {
                    let path = self.shared.target.data_dir.join(path_until_the_end(inside(&body.path)?));
                    self.file(path, body, self.ground.is_kept)?;
                }
                Entry::Config(body) => {
                    let original = decode(&body.path)?;
                    let relative = original.strip_prefix("/").ok().filter(|p| stays_inside(p));
                    let relative = relative.ok_or_else(|| RestoreError::Path { path: body.path.clone() })?;
                    let kept = self.shared.target.side_dir.join("config").join(relative);
                    self.folders_beside(&kept)?;
                    self.restored.config.push((kept.clone(), original));
                    // An earlier restore into this target may have left its own there.
                    self.file(kept, body, true)?;
                }
                Entry::Header(_) | Entry::End(_) => {}
            }
            if self.shared.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let bytes_done = self.shared.bytes.load(Ordering::Relaxed);
            events.tell(Event::Progress(SnapshotOfProgress {
                bytes_done,
                bytes_total: total_bytes,
                files_done: self.restored.files,
                ..SnapshotOfProgress::default()
            }));
        }
        self.flush();
        // pg_wal and its folders are made again even where the server's own copy left them out.
        for folder in MADE_ANYWAY {
            self.directory(Path::new(folder), self.root_mode)?;
        }
        let root = &self.shared.target.data_dir;
        let opened = self.shared.target.own_dir(root, false)?;
        opened.set_permissions(fs::Permissions::from_mode(self.root_mode)).map_err(RestoreError::file("set the mode of", root))
    }

    /// Each folder on the way from the side directory to this file is a real one: through a link root would write elsewhere.
    fn folders_beside(&self, kept: &Path) -> Result<(), RestoreError> {
        let target = &self.shared.target;
        let mut folders: Vec<&Path> = kept.ancestors().skip(1).take_while(|folder| *folder != target.side_dir).collect();
        folders.reverse();
        folders.into_iter().try_for_each(|folder| target.make_dir(folder))
    }

    fn directory(&mut self, name: &Path, mode: u32) -> Result<(), RestoreError> {
        let target = &self.shared.target;
        let path = target.data_dir.join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => other.map_err(RestoreError::file("create", &path))?,
        }
        let opened = target.own_dir(&path, name == Path::new("pg_wal") && self.ground.wal_elsewhere.is_some())?;
        opened.set_permissions(fs::Permissions::from_mode(mode & 0o777)).map_err(RestoreError::file("set the mode of", &path))
    }

    fn tablespace(&mut self, oid: u32, location: &str) -> Result<(), RestoreError> {
        let target = &self.shared.target;
        let place = match self.tablespaces.place(oid) {
            Some(place) => place,
            None => decode(location)?,
        };
        if !place.exists() {
            target.make_dir(&place)?;
        }
        // The server takes a link for a tablespace's place, too.
        target.own_dir(&place, true)?;
        self.restored.moved.extend(clear_tablespace(&place, self.now, |name| self.ground.keeps_in_tablespace(oid, name))?);
        let link = target.data_dir.join("pg_tblspc").join(oid.to_string());
        if link.parent().is_some_and(|p| !p.exists()) {
            self.directory(Path::new("pg_tblspc"), 0o700)?;
        }
        if fs::read_link(&link).is_ok_and(|now| now != place) {
            // The same directory under another name.
            fs::remove_file(&link).map_err(RestoreError::file("remove", &link))?;
        }
        match std::os::unix::fs::symlink(&place, &link) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && self.ground.is_ours(oid) => {}
            other => other.map_err(RestoreError::file("create", &link))?,
        }
        let owner = target.owner;
        std::os::unix::fs::lchown(&link, Some(owner.uid), Some(owner.gid)).map_err(RestoreError::file("own", &link))?;
        self.filesystems.push(place);
        Ok(())
    }

    fn file(&mut self, path: PathBuf, body: FileBody, may_be_there: bool) -> Result<(), RestoreError> {
        self.restored.files += 1;
        self.restored.bytes += body.size;
        let place = Place::new(path, body.mode, may_be_there);
        let there = if may_be_there { place.take_over(&self.shared.target, body.size)? } else { 0 };
        if body.chunks.is_empty() {
            place.open(&self.shared.target)?;
            return Ok(());
        }
        let place = Arc::new(place);
        for (index, chunk) in body.chunks.into_iter().enumerate() {
            let at = index as u64 * self.chunk_bytes;
            let plain_bytes = (body.size - at).min(self.chunk_bytes);
            self.item(Item { place: place.clone(), at, plain_bytes, is_there: at + plain_bytes <= there, chunk });
        }
        Ok(())
    }

    fn item(&mut self, item: Item) {
        let ChunkRef(number, offset, stored, _) = item.chunk;
        let end = offset + u64::from(stored);
        if let Some(span) = &mut self.open {
            let (from, to) = (span.from.min(offset), span.to.max(end));
            if span.pack.number == number && to - from <= SPAN_BYTES && span.items.len() < SPAN_ITEMS {
                (span.from, span.to) = (from, to);
                span.items.push(item);
                return;
            }
        }
        let same = self.open.as_ref().map(|s| s.pack.clone()).filter(|p| p.number == number);
        self.flush();
        let pack = same.unwrap_or_else(|| Arc::new(PackHandle::new(number)));
        self.open = Some(Span { pack, from: offset, to: end, items: vec![item] });
    }

    fn flush(&mut self) {
        if let Some(span) = self.open.take() {
            // No worker is left only when one has failed, and it says why.
            if self.spans.send(span).is_err() {
                self.shared.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What the server accepts for its directory: the owner's alone, or open to read for the group (`checkDataDir`,
/// src/backend/utils/init/miscinit.c).
fn root_mode(of_base: u32) -> u32 {
    if of_base & 0o050 == 0o050 { 0o750 } else { 0o700 }
}

/// Directories that a restore makes whether or not the manifest names them.
pub(crate) const MADE_ANYWAY: [&str; 2] = ["pg_wal", "pg_wal/archive_status"];

/// Where a file of the manifest lies until all is durable.
pub(crate) fn path_until_the_end(path: PathBuf) -> PathBuf {
    if path == Path::new(CONTROL_FILE) { PathBuf::from(CONTROL_FILE_LATER) } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_the_group_may_read_comes_back_so_and_never_wider() {
        for (of_base, root) in [(0o700, 0o700), (0o750, 0o750), (0o755, 0o750), (0o740, 0o700)] {
            assert_eq!(root_mode(of_base), root, "{of_base:o}");
        }
    }
}
