//! The source `local`: a data directory that this host can read, while the server writes to it.

use crate::CaptureError;
use crate::pipeline::{Content, FileFacts, Pipeline};
use pg::rules::{Verdict, init_fork_of, judge, relation_file};
use pg::{CONTROL_FILE, ControlFile};
use repo::{Entry, FileBody};
use seal::CHUNK_BYTES;
use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use terms::{Event, Events};

/// Configuration files larger than this (4 MiB) are something else.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// A data directory that was found to be one.
pub(crate) struct DataDirectory {
    pub(crate) path: PathBuf,
    pub(crate) control: ControlFile,
    version_dir: String,
}

impl DataDirectory {
    /// Opens it and reads its control file.
    pub(crate) fn open(path: &Path) -> Result<Self, CaptureError> {
        let not_one = |why: String| CaptureError::NotADataDirectory { path: path.to_owned(), why };
        match fs::symlink_metadata(path).and_then(|_| fs::metadata(path)) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(not_one("It is not a directory".into())),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(not_one("It does not exist".into())),
            Err(e) => return Err(unreadable(path)(e)),
        }
        let file = path.join(CONTROL_FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(not_one(format!("It has no {CONTROL_FILE}"))),
            Err(e) => return Err(unreadable(&file)(e)),
        };
        let control = read_control(&file, bytes)?;
        let version_dir = control.tablespace_dir();
        Ok(Self { path: path.to_owned(), control, version_dir })
    }

    /// Feeds everything that a base backup copies, the control file last.
    pub(crate) fn copy(&self, pipeline: &mut Pipeline, events: &dyn Events) -> Result<(), CaptureError> {
        let mut walk = Walk { directory: self, pipeline, events };
        walk.directory_contents(Path::new(""))?;
        walk.control_file()
    }

    /// Counts the bytes that a copy will move, for progress; what vanishes meanwhile does not matter.
    pub(crate) fn measure(&self, total: &AtomicU64) {
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let Ok(listing) = fs::read_dir(self.path.join(&folder)) else { continue };
            for item in listing.flatten() {
                let path = folder.join(item.file_name());
                let Ok(meta) = fs::metadata(item.path()) else { continue };
                match judge(&path, &self.version_dir) {
                    Verdict::Copy if meta.is_dir() => folders.push(path),
                    Verdict::Copy => {
                        total.fetch_add(meta.len(), Ordering::Relaxed);
                    }
                    Verdict::CopyEmptyDir | Verdict::Skip => {}
                }
            }
        }
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> CaptureError {
    move |source| CaptureError::File { operation: "read", path: path.to_owned(), source }
}

/// The server may be just writing the file: its checksum tells, and another look settles it.
fn read_control(file: &Path, mut bytes: Vec<u8>) -> Result<ControlFile, CaptureError> {
    for _ in 0..20 {
        if let Ok(control) = ControlFile::parse(&bytes) {
            return Ok(control);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        bytes = fs::read(file).map_err(unreadable(file))?;
    }
    ControlFile::parse(&bytes).map_err(|e| CaptureError::NotADataDirectory {
        path: file.parent().and_then(Path::parent).unwrap_or(file).to_owned(),
        why: terms::Explain::advice(&e).to_string().trim_start_matches("error: ").to_owned(),
    })
}

/// A path as the manifest spells it: `%XX` for `%`, control characters and bytes that are not UTF-8.
pub(crate) fn manifest_name(path: &Path) -> String {
    let mut name = String::new();
    for piece in path.as_os_str().as_bytes().utf8_chunks() {
        for letter in piece.valid().chars() {
            match letter {
                '%' => name.push_str("%25"),
                c if c.is_control() => name.extend(c.to_string().bytes().map(|b| format!("%{b:02X}"))),
                c => name.push(c),
            }
        }
        name.extend(piece.invalid().iter().map(|b| format!("%{b:02X}")));
    }
    name
}

struct Walk<'a> {
    directory: &'a DataDirectory,
    pipeline: &'a mut Pipeline,
    events: &'a dyn Events,
}

impl Walk<'_> {
    /// Copies what is in `folder`, in the order in which the filesystem lists it: sorting would hold all names in memory.
    fn directory_contents(&mut self, folder: &Path) -> Result<(), CaptureError> {
        let here = self.directory.path.join(folder);
        let listing = match fs::read_dir(&here) {
            Ok(listing) => listing,
            // A database that was dropped meanwhile; replay drops it again.
            Err(e) if e.kind() == ErrorKind::NotFound && !folder.as_os_str().is_empty() => return Ok(()),
            Err(e) => return Err(unreadable(&here)(e)),
        };
        for item in listing {
            let item = item.map_err(unreadable(&here))?;
            let path = folder.join(item.file_name());
            match judge(&path, &self.directory.version_dir) {
                Verdict::Skip => continue,
                verdict => self.item(&path, &item.path(), verdict)?,
            }
        }
        Ok(())
    }

    fn item(&mut self, path: &Path, here: &Path, verdict: Verdict) -> Result<(), CaptureError> {
        let meta = match fs::symlink_metadata(here) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(unreadable(here)(e)),
        };
        if verdict == Verdict::CopyEmptyDir {
            // pg_wal and its like may be links: what they lead to has the mode, and they become plain directories.
            let mode = fs::metadata(here).map_or(0o700, |m| m.mode()) & 0o7777;
            self.pipeline.line(Entry::Dir { path: manifest_name(path), mode })?;
            if path == Path::new("pg_wal") {
                self.directory_contents(path)?;
            }
            return Ok(());
        }
        if meta.is_symlink() {
            return self.link(path, here);
        }
        if meta.is_dir() {
            self.pipeline.line(Entry::Dir { path: manifest_name(path), mode: meta.mode() & 0o7777 })?;
            return self.directory_contents(path);
        }
        if !meta.is_file() {
            self.events.tell(Event::Noticed { what: format!("left out {}: it is neither a file nor a directory", here.display()) });
            return Ok(());
        }
        // The control file goes last.
        if path == Path::new(CONTROL_FILE) { Ok(()) } else { self.file(path, here) }
    }

    /// Links belong in pg_tblspc; PostgreSQL's own base backup leaves all others out, and so do we, loudly.
    fn link(&mut self, path: &Path, here: &Path) -> Result<(), CaptureError> {
        let oid = path.strip_prefix("pg_tblspc").ok().and_then(|p| p.to_str()).and_then(|p| p.parse::<u32>().ok());
        let target = fs::read_link(here).map_err(unreadable(here))?;
        let Some(oid) = oid else {
            if fs::metadata(here).is_ok_and(|m| m.is_file()) {
                return self.file(path, here);
            }
            self.events.tell(Event::Noticed { what: format!("left out {}: a link to {}", here.display(), target.display()) });
            return Ok(());
        };
        self.pipeline.line(Entry::Tablespace { oid, location: manifest_name(&target) })?;
        self.directory_contents(path)
    }

    fn file(&mut self, path: &Path, here: &Path) -> Result<(), CaptureError> {
        let relation = relation_file(path);
        // Of an unlogged relation only the init fork is copied.
        if init_fork_of(path).is_some_and(|init| self.directory.path.join(init).exists()) {
            return Ok(());
        }
        let file = match File::open(here) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.events.tell(Event::FileVanished { file: manifest_name(path) });
                return Ok(());
            }
            Err(e) => return Err(unreadable(here)(e)),
        };
        let meta = file.metadata().map_err(unreadable(here))?;
        let first_block = relation.map(|r| r.segment.wrapping_mul(self.directory.control.relation_segment_blocks));
        feed_file(self.pipeline, file, &meta, here, manifest_name(path), first_block, Entry::File)
    }

    /// Read once in one piece, and only believed when its checksum agrees.
    fn control_file(&mut self) -> Result<(), CaptureError> {
        let here = self.directory.path.join(CONTROL_FILE);
        let meta = fs::metadata(&here).map_err(unreadable(&here))?;
        for _ in 0..20 {
            let bytes = fs::read(&here).map_err(unreadable(&here))?;
            if ControlFile::parse(&bytes).is_ok() {
                return feed_bytes(self.pipeline, bytes, CONTROL_FILE.into(), meta.mode() & 0o7777, meta.mtime());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(CaptureError::NotADataDirectory { path: self.directory.path.clone(), why: format!("{CONTROL_FILE} does not match its checksum") })
    }
}

/// Feeds a file that is open, as long as it is now.
fn feed_file(
    pipeline: &mut Pipeline,
    file: File,
    meta: &Metadata,
    here: &Path,
    name: String,
    first_block: Option<u32>,
    entry: fn(FileBody) -> Entry,
) -> Result<(), CaptureError> {
    let size = meta.len();
    let body = FileBody { path: name.clone(), mode: meta.mode() & 0o7777, mtime: meta.mtime(), size: 0, chunks: Vec::new() };
    let count = size.div_ceil(CHUNK_BYTES as u64) as usize;
    let pad = first_block.is_some() || count > 1;
    let mut feed = pipeline.begin_file(FileFacts { path: here.to_owned(), name, first_block, pad }, entry(body), count)?;
    let file = Arc::new(file);
    for index in 0..count as u64 {
        let offset = index * CHUNK_BYTES as u64;
        let bytes = (size - offset).min(CHUNK_BYTES as u64) as usize;
        pipeline.chunk(&mut feed, Content::Slice { file: file.clone(), offset, bytes })?;
    }
    Ok(())
}

/// Feeds a file whose bytes are at hand.
pub(crate) fn feed_bytes(pipeline: &mut Pipeline, bytes: Vec<u8>, name: String, mode: u32, mtime: i64) -> Result<(), CaptureError> {
    let body = FileBody { path: name.clone(), mode, mtime, size: 0, chunks: Vec::new() };
    let count = bytes.len().div_ceil(CHUNK_BYTES);
    let facts = FileFacts { path: PathBuf::from(&name), name, first_block: None, pad: false };
    let mut feed = pipeline.begin_file(facts, Entry::File(body), count)?;
    for piece in bytes.chunks(CHUNK_BYTES) {
        pipeline.chunk(&mut feed, Content::Arrived(piece.to_vec()))?;
    }
    Ok(())
}

/// Feeds the configuration that lies outside the data directory (Debian's /etc/postgresql): the named files and
/// everything in the folder of the main one. What cannot be read is told, and does not fail the backup.
pub(crate) fn copy_config(pipeline: &mut Pipeline, data_dir: &Path, named: &[PathBuf], events: &dyn Events) -> Result<(), CaptureError> {
    let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let outside = |path: &Path| !fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).starts_with(&data_dir);
    let mut files: Vec<PathBuf> = named.iter().filter(|p| outside(p)).cloned().collect();
    if let Some(folder) = files.first().and_then(|p| p.parent()).map(Path::to_owned) {
        for folder in [folder.clone(), folder.join("conf.d")] {
            let listing = fs::read_dir(&folder).into_iter().flatten().flatten();
            files.extend(listing.map(|item| item.path()).filter(|p| p.is_file()));
        }
    }
    files.sort();
    files.dedup();
    for path in files {
        let opened = File::open(&path).and_then(|file| file.metadata().map(|meta| (file, meta)));
        match opened {
            Ok((file, meta)) if meta.len() <= CONFIG_BYTES_MAX => {
                feed_file(pipeline, file, &meta, &path, manifest_name(&path), None, Entry::Config)?;
            }
            Ok(_) => events.tell(Event::ConfigUnreadable { file: path, why: "it is larger than 4 MiB".into() }),
            Err(e) => events.tell(Event::ConfigUnreadable { file: path, why: e.to_string() }),
        }
    }
    Ok(())
}
