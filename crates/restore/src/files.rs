//! Puts a backup's files in place: one pass over the manifest and the packs, in parallel, durable at the end.

use crate::RestoreError;
use crate::target::{Target, move_aside};
use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender, bounded};
use pg::CONTROL_FILE;
use repo::{BackupDocument, ChunkRef, Entry, FileBody, ManifestReader, Reader, pack_path};
use seal::{Digester, HEADER_BYTES, ObjectKind, OpenObject, Opener};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use terms::{BackupId, BackupKind, Event, Events, SnapshotOfProgress, Timestamp};
use tokio::runtime::Handle;

/// Neighbouring frames are fetched together up to this many stored bytes (4 MiB), and no more than so many at once.
const SPAN_BYTES: u64 = 4 << 20;
const SPAN_ITEMS: usize = 256;
/// PostgreSQL's page.
const PAGE_BYTES: u64 = 8192;
/// The control file's name until everything else is durable: a cluster without it cannot be started by mistake.
const CONTROL_FILE_LATER: &str = "global/pg_control.bowline";

/// Where tablespaces go.
#[derive(Debug, Clone, Default)]
pub struct TablespaceMap {
    /// By oid.
    pub places: BTreeMap<u32, PathBuf>,
    /// Below this folder, if they are not named; `None`: where they were. A restore beside production must have one,
    /// since where they were production's own may be.
    pub elsewhere: Option<PathBuf>,
}

impl TablespaceMap {
    /// Where this one goes; `None`: where it was.
    pub fn place(&self, oid: u32) -> Option<PathBuf> {
        self.places.get(&oid).cloned().or_else(|| self.elsewhere.as_ref().map(|folder| folder.join(oid.to_string())))
    }
}

/// What was restored.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    pub files: u64,
    pub bytes: u64,
    /// Configuration that lay outside the data directory: where it lies now, and where it was.
    pub config: Vec<(PathBuf, PathBuf)>,
    /// Old tablespace content that was moved aside.
    pub moved: Vec<(PathBuf, PathBuf)>,
}

/// A file to be written by whichever worker comes first.
struct Place {
    path: PathBuf,
    mode: u32,
    file: OnceLock<File>,
    creating: Mutex<()>,
}

/// A chunk to be put in place.
struct Item {
    place: Arc<Place>,
    at: u64,
    plain_bytes: u64,
    chunk: ChunkRef,
}

/// Chunks that lie together in one pack.
struct Span {
    pack: Arc<PackHandle>,
    from: u64,
    to: u64,
    items: Vec<Item>,
}

/// A pack being read.
struct PackHandle {
    number: u32,
    object: OnceLock<OpenObject>,
    opening: Mutex<()>,
}

/// What all threads share.
struct Shared {
    reader: Reader,
    runtime: Handle,
    backup: BackupId,
    digester: Digester,
    target: Target,
    bytes: AtomicU64,
    failed: AtomicBool,
    trouble: Mutex<Option<RestoreError>>,
}

/// Restores the files of `backup` into the (empty) target. Blocking: call it outside the runtime's threads.
pub(crate) fn restore_files(
    reader: &Reader,
    backup: &BackupDocument,
    target: &Target,
    tablespaces: &TablespaceMap,
    jobs: usize,
    now: Timestamp,
    runtime: &Handle,
    events: &dyn Events,
) -> Result<Restored, RestoreError> {
    let digester = runtime.block_on(reader.digester())?;
    let manifest = runtime.block_on(ManifestReader::open_for(reader, backup)).map_err(RestoreError::of_backup(backup.id))?;
    let shared = Arc::new(Shared {
        reader: reader.clone(),
        runtime: runtime.clone(),
        backup: backup.id,
        digester,
        target: target.clone(),
        bytes: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        trouble: Mutex::new(None),
    });
    // A request to a bucket spends most of its time on the way: more of them than there are cores.
    let threads = if reader.store().is_remote() { jobs.max(1) + 6 } else { jobs.max(1) };
    let (spans, to_do) = bounded::<Span>(threads);
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (shared, to_do) = (shared.clone(), to_do.clone());
            thread::spawn(move || {
                if let Err(e) = work(&shared, &to_do) {
                    shared.failed.store(true, Ordering::Relaxed);
                    shared.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
                    to_do.iter().for_each(drop);
                }
            })
        })
        .collect();
    drop(to_do);
    let mut feeder = Feeder {
        shared: &shared,
        spans,
        tablespaces,
        now,
        chunk_bytes: u64::from(manifest.header().chunk_bytes),
        open: None,
        restored: Restored::default(),
        filesystems: vec![target.data_dir.clone()],
        links: Vec::new(),
    };
    let fed = feeder.run(manifest, backup.bytes, events);
    let Feeder { spans, restored, filesystems, .. } = feeder;
    drop(spans);
    for worker in workers {
        worker.join().map_err(|_| RestoreError::Bug("a worker panicked".into()))?;
    }
    if let Some(e) = shared.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        return Err(e);
    }
    fed?;
    make_durable(&target.data_dir, &filesystems)?;
    Ok(restored)
}

struct Feeder<'a> {
    shared: &'a Arc<Shared>,
    spans: Sender<Span>,
    tablespaces: &'a TablespaceMap,
    now: Timestamp,
    chunk_bytes: u64,
    open: Option<Span>,
    restored: Restored,
    /// A path on each filesystem that was written to.
    filesystems: Vec<PathBuf>,
    links: Vec<PathBuf>,
}

impl Feeder<'_> {
    fn run(&mut self, mut manifest: ManifestReader, total_bytes: u64, events: &dyn Events) -> Result<(), RestoreError> {
        while let Some(entry) = self.shared.runtime.block_on(manifest.next()).map_err(RestoreError::of_backup(self.shared.backup))? {
            match entry {
                Entry::Dir { path, mode } => self.directory(&inside(&path)?, mode)?,
                Entry::Tablespace { oid, location } => self.tablespace(oid, &location)?,
                Entry::File(body) => {
                    let path = inside(&body.path)?;
                    let path = if path == Path::new(CONTROL_FILE) { PathBuf::from(CONTROL_FILE_LATER) } else { path };
                    self.file(self.shared.target.data_dir.join(path), body)?;
                }
                Entry::Config(body) => {
                    let original = decode(&body.path)?;
                    let relative = original.strip_prefix("/").ok().filter(|p| stays_inside(p));
                    let relative = relative.ok_or_else(|| RestoreError::Path { path: body.path.clone() })?;
                    let kept = self.shared.target.side_dir.join("config").join(relative);
                    if let Some(parent) = kept.parent() {
                        fs::create_dir_all(parent).map_err(RestoreError::file("create", parent))?;
                    }
                    self.restored.config.push((kept.clone(), original));
                    self.file(kept, body)?;
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
                bytes_stored: 0,
            }));
        }
        self.flush();
        // pg_wal and its folders are made again even where the server's own copy left them out.
        for folder in ["pg_wal", "pg_wal/archive_status"] {
            self.directory(Path::new(folder), 0o700)?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, mode: u32) -> Result<(), RestoreError> {
        let target = &self.shared.target;
        let path = target.data_dir.join(path);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.map_err(RestoreError::file("create", &path))?,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o777)).map_err(RestoreError::file("set the mode of", &path))?;
        chown(&path, Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", &path))
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
        chown(&place, Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", &place))?;
        // Only what a PostgreSQL of this cluster could have put there is in the way.
        for item in fs::read_dir(&place).map_err(RestoreError::file("read", &place))?.flatten() {
            if item.file_name().to_string_lossy().starts_with("PG_") && !item.file_name().to_string_lossy().contains(".before-") {
                let to = move_aside(&item.path(), self.now)?;
                self.restored.moved.push((item.path(), to));
            }
        }
        let link = target.data_dir.join("pg_tblspc").join(oid.to_string());
        if link.parent().is_some_and(|p| !p.exists()) {
            self.directory(Path::new("pg_tblspc"), 0o700)?;
        }
        std::os::unix::fs::symlink(&place, &link).map_err(RestoreError::file("create", &link))?;
        std::os::unix::fs::lchown(&link, Some(self.shared.target.owner.uid), Some(self.shared.target.owner.gid))
            .map_err(RestoreError::file("own", &link))?;
        self.links.push(link);
        self.filesystems.push(place);
        Ok(())
    }

    fn file(&mut self, path: PathBuf, body: FileBody) -> Result<(), RestoreError> {
        self.restored.files += 1;
        self.restored.bytes += body.size;
        let place = Arc::new(Place { path, mode: body.mode, file: OnceLock::new(), creating: Mutex::new(()) });
        if body.chunks.is_empty() {
            place.open(&self.shared.target)?;
            return Ok(());
        }
        for (index, chunk) in body.chunks.into_iter().enumerate() {
            let at = index as u64 * self.chunk_bytes;
            let plain_bytes = (body.size - at).min(self.chunk_bytes);
            self.item(Item { place: place.clone(), at, plain_bytes, chunk });
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
        let pack = same.unwrap_or_else(|| Arc::new(PackHandle { number, object: OnceLock::new(), opening: Mutex::new(()) }));
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

impl Place {
    fn open(&self, target: &Target) -> Result<&File, RestoreError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let _creating = self.creating.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(self.mode & 0o777)
            .open(&self.path)
            .map_err(RestoreError::file("create", &self.path))?;
        fchown(&file, Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", &self.path))?;
        Ok(self.file.get_or_init(|| file))
    }
}

impl PackHandle {
    fn open(&self, shared: &Shared) -> Result<&OpenObject, RestoreError> {
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let _opening = self.opening.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let path = pack_path(BackupKind::Full, shared.backup, self.number);
        let object = shared.runtime.block_on(async {
            let header = shared.reader.store().get_range(&path, 0..HEADER_BYTES as u64).await?;
            shared.reader.open_object(&path, ObjectKind::Pack, &header).await
        });
        let object = object.map_err(RestoreError::of_backup(shared.backup))?;
        Ok(self.object.get_or_init(|| object))
    }
}

/// A worker: fetch a span, open each chunk, prove it, write it.
fn work(shared: &Shared, to_do: &Receiver<Span>) -> Result<(), RestoreError> {
    let mut opener = Opener::new().map_err(repo::RepoError::from)?;
    let mut digester = shared.digester.clone();
    let mut plain = Vec::new();
    for span in to_do {
        let path = pack_path(BackupKind::Full, shared.backup, span.pack.number);
        let named = |item: &Item, source| RestoreError::Chunk {
            file: item.place.path.strip_prefix(&shared.target.data_dir).unwrap_or(&item.place.path).display().to_string(),
            blocks: blocks(item.at, item.plain_bytes),
            backup: shared.backup,
            pack: path.to_string(),
            source,
        };
        let object = match (span.pack.open(shared), span.items.first()) {
            (Err(RestoreError::Backup { source: repo::RepoError::Object { source, .. }, .. }), Some(first)) => return Err(named(first, source)),
            (object, _) => object?,
        };
        let fetched = shared.runtime.block_on(shared.reader.store().get_range(&path, span.from..span.to)).map_err(repo::RepoError::from);
        let fetched = fetched.map_err(RestoreError::of_backup(shared.backup))?;
        // Ours alone: opening decrypts in place.
        let mut bytes = fetched.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        for item in span.items {
            let damaged = |source| named(&item, source);
            let Item { place, at, plain_bytes, chunk: ChunkRef(_, offset, stored, digest) } = &item;
            let from = (offset - span.from) as usize;
            opener.open(object, &mut bytes[from..from + *stored as usize], &mut plain).map_err(damaged)?;
            if plain.len() as u64 != *plain_bytes || digester.digest(&plain) != *digest {
                return Err(damaged(seal::SealError::WrongDigest));
            }
            let file = place.open(&shared.target)?;
            crate::pacing::write_at(file, &plain, *at).map_err(RestoreError::file("write", &place.path))?;
            shared.bytes.fetch_add(*plain_bytes, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Which of a file's pages lie in these bytes of it, counted as PostgreSQL counts them (`BLCKSZ`, 8192 bytes).
fn blocks(at: u64, bytes: u64) -> String {
    match (at / PAGE_BYTES, (at + bytes.max(1) - 1) / PAGE_BYTES) {
        (first, last) if first == last => format!("block {first}"),
        (first, last) => format!("blocks {first} to {last}"),
    }
}

/// Everything but the control file first; then the control file, which makes it a cluster.
fn make_durable(data_dir: &Path, filesystems: &[PathBuf]) -> Result<(), RestoreError> {
    for place in filesystems {
        let folder = File::open(place).map_err(RestoreError::file("open", place))?;
        rustix::fs::syncfs(&folder).map_err(|e| RestoreError::file("sync", place)(e.into()))?;
    }
    let (later, control) = (data_dir.join(CONTROL_FILE_LATER), data_dir.join(CONTROL_FILE));
    File::open(&later).and_then(|f| f.sync_all()).map_err(RestoreError::file("sync", &later))?;
    fs::rename(&later, &control).map_err(RestoreError::file("rename", &later))?;
    for folder in [control.parent(), Some(data_dir), data_dir.parent()].into_iter().flatten() {
        File::open(folder).and_then(|f| f.sync_all()).map_err(RestoreError::file("sync", folder))?;
    }
    Ok(())
}

/// A path of the manifest as bytes: `%XX` decoded.
fn decode(text: &str) -> Result<PathBuf, RestoreError> {
    let wrong = || RestoreError::Path { path: text.to_owned() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &tail[2..];
    }
    if bytes.contains(&0) { Err(wrong()) } else { Ok(std::ffi::OsString::from_vec(bytes).into()) }
}

/// A path that stays below where it is put.
fn inside(text: &str) -> Result<PathBuf, RestoreError> {
    let path = decode(text)?;
    if stays_inside(&path) { Ok(path) } else { Err(RestoreError::Path { path: text.to_owned() }) }
}

fn stays_inside(path: &Path) -> bool {
    // `components` passes over "." and "//": what it makes of the path must be the path.
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    plain && !path.as_os_str().is_empty() && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_named_by_the_pages_in_it() {
        for (at, bytes, named) in [(0, 8192, "block 0"), (0, 8193, "blocks 0 to 1"), (1 << 20, 1 << 20, "blocks 128 to 255"), (0, 0, "block 0")] {
            assert_eq!(blocks(at, bytes), named);
        }
    }

    #[test]
    fn a_path_that_leads_out_of_the_data_directory_is_refused() {
        for bad in ["", "/etc/passwd", "../x", "base/../../x", "./x", "%2e%2e/x", "%2Fetc/passwd", "a%00b", "a%", "a%4", "a%zz"] {
            assert!(inside(bad).is_err(), "{bad:?}");
        }
        assert_eq!(inside("base/5/1259").unwrap(), Path::new("base/5/1259"));
        assert_eq!(inside("100%25").unwrap(), Path::new("100%"));
    }
}
