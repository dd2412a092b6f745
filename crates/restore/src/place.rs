//! The workers of a restore: fetch a span of chunks, open each, prove it, write it where it belongs.

use crate::RestoreError;
use crate::delta::differing;
use crate::target::Target;
use bytes::BytesMut;
use crossbeam_channel::Receiver;
use repo::{BackupDocument, ChunkRef, Reader, pack_path};
use seal::{Digester, HEADER_BYTES, KeyId, OpenObject, Opener};
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use terms::{BackupId, BackupKind};
use tokio::runtime::Handle;

/// What is written of a chunk that lies there and is wrong: the runs of such blocks (8 KiB, PostgreSQL's page) that differ.
const BLOCK_BYTES: usize = 8192;

/// A file to be written by whichever worker comes first.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    mode: u32,
    may_be_there: bool,
    file: OnceLock<File>,
    creating: Mutex<()>,
}

/// A chunk to be put in place.
pub(crate) struct Item {
    pub(crate) place: Arc<Place>,
    pub(crate) at: u64,
    pub(crate) plain_bytes: u64,
    /// So many bytes lie at that place of the file already; whether they are right is to be seen.
    pub(crate) is_there: bool,
    pub(crate) chunk: ChunkRef,
}

/// Chunks that lie together in one pack.
pub(crate) struct Span {
    pub(crate) pack: Arc<PackHandle>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) items: Vec<Item>,
}

/// A pack being read.
pub(crate) struct PackHandle {
    pub(crate) number: u32,
    object: OnceLock<OpenObject>,
    opening: Mutex<()>,
}

/// What all threads share.
pub(crate) struct Shared {
    reader: Reader,
    pub(crate) runtime: Handle,
    backup: BackupId,
    /// Of all its packs.
    key: Option<KeyId>,
    digester: Digester,
    pub(crate) target: Target,
    /// Bytes that are in place, whoever put them there.
    pub(crate) bytes: AtomicU64,
    pub(crate) chunks_kept: AtomicU64,
    pub(crate) bytes_kept: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) failed: AtomicBool,
    trouble: Mutex<Option<RestoreError>>,
}

impl Shared {
    pub(crate) fn new(reader: Reader, runtime: Handle, backup: &BackupDocument, digester: Digester, target: Target) -> Self {
        let zero = || AtomicU64::new(0);
        let (failed, trouble) = (AtomicBool::new(false), Mutex::new(None));
        Self {
            reader,
            runtime,
            backup: backup.id,
            key: backup.key,
            digester,
            target,
            bytes: zero(),
            chunks_kept: zero(),
            bytes_kept: zero(),
            bytes_written: zero(),
            failed,
            trouble,
        }
    }

    pub(crate) fn fail(&self, e: RestoreError) {
        self.failed.store(true, Ordering::Relaxed);
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
    }

    /// The first thing that failed.
    pub(crate) fn trouble(&self) -> Option<RestoreError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Place {
    pub(crate) fn new(path: PathBuf, mode: u32, may_be_there: bool) -> Self {
        Self { path, mode, may_be_there, file: OnceLock::new(), creating: Mutex::new(()) }
    }

    /// Makes what lies there fit to be written in place, no longer than `size`; returns how many bytes of it are left to compare.
    pub(crate) fn take_over(&self, target: &Target, size: u64) -> Result<u64, RestoreError> {
        let meta = match fs::symlink_metadata(&self.path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(RestoreError::file("look at", &self.path)(e)),
        };
        // What has a second name (`cp -l`, `pg_upgrade --link`) is somebody else's as well, and a link leads elsewhere: only the name goes.
        let is_own = meta.is_file() && meta.nlink() == 1;
        let opened = if is_own { OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(&self.path).ok() } else { None };
        let Some(file) = opened else {
            fs::remove_file(&self.path).map_err(RestoreError::file("remove", &self.path))?;
            return Ok(0);
        };
        if meta.len() > size {
            file.set_len(size).map_err(RestoreError::file("shorten", &self.path))?;
        }
        self.dress(target, &file, &meta)?;
        Ok(meta.len().min(size))
    }

    /// Owner and mode, where they are not as they should be.
    fn dress(&self, target: &Target, file: &File, meta: &fs::Metadata) -> Result<(), RestoreError> {
        if (meta.uid(), meta.gid()) != (target.owner.uid, target.owner.gid) {
            fchown(file, Some(target.owner.uid), Some(target.owner.gid)).map_err(RestoreError::file("own", &self.path))?;
        }
        if meta.mode() & 0o7777 != self.mode & 0o777 {
            let mode = fs::Permissions::from_mode(self.mode & 0o777);
            file.set_permissions(mode).map_err(RestoreError::file("set the mode of", &self.path))?;
        }
        Ok(())
    }

    pub(crate) fn open(&self, target: &Target) -> Result<&File, RestoreError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let _creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let mut how = OpenOptions::new();
        how.write(true).mode(self.mode & 0o777).custom_flags(nix::libc::O_NOFOLLOW);
        let how = if self.may_be_there { how.read(true).create(true) } else { how.create_new(true) };
        let file = how.open(&self.path).map_err(RestoreError::file("create", &self.path))?;
        let meta = file.metadata().map_err(RestoreError::file("look at", &self.path))?;
        self.dress(target, &file, &meta)?;
        Ok(self.file.get_or_init(|| file))
    }
}

impl PackHandle {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, object: OnceLock::new(), opening: Mutex::new(()) }
    }

    fn open(&self, shared: &Shared) -> Result<&OpenObject, RestoreError> {
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let path = pack_path(BackupKind::Full, shared.backup, self.number);
        let object = shared.runtime.block_on(async {
            let header = shared.reader.store().get_range(&path, 0..HEADER_BYTES as u64).await.map_err(repo::RepoError::from)?;
            shared.reader.open_pack(&path, shared.key, &header).await
        });
        let object = object.map_err(RestoreError::of_backup(shared.backup))?;
        Ok(self.object.get_or_init(|| object))
    }
}

/// A worker: of each span, look at what is there, and fetch, open, prove and write the rest.
pub(crate) fn work(shared: &Shared, to_do: &Receiver<Span>) -> Result<(), RestoreError> {
    let mut opener = Opener::new().map_err(repo::RepoError::from)?;
    let mut digester = shared.digester.clone();
    let (mut plain, mut there) = (Vec::new(), Vec::new());
    for span in to_do {
        if !span.items.iter().any(|item| item.is_there) {
            put(shared, span, &mut opener, &mut digester, &mut plain, &mut there)?;
            continue;
        }
        for span in differing(shared, span, &mut digester, &mut there)? {
            put(shared, span, &mut opener, &mut digester, &mut plain, &mut there)?;
        }
    }
    Ok(())
}

fn put(
    shared: &Shared,
    span: Span,
    opener: &mut Opener,
    digester: &mut Digester,
    plain: &mut Vec<u8>,
    there: &mut Vec<u8>,
) -> Result<(), RestoreError> {
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
    for item in &span.items {
        let damaged = |source| named(item, source);
        let &Item { ref place, at, plain_bytes, is_there, chunk: ChunkRef(_, offset, stored, digest) } = item;
        let from = (offset - span.from) as usize;
        opener.open(object, &mut bytes[from..from + stored as usize], plain).map_err(damaged)?;
        if plain.len() as u64 != plain_bytes || digester.digest(plain) != digest {
            return Err(damaged(seal::SealError::WrongDigest));
        }
        let file = place.open(&shared.target)?;
        let written = if is_there { write_changes(file, plain, at, there) } else { crate::pacing::write_at(file, plain, at).map(|()| plain_bytes) };
        shared.bytes_written.fetch_add(written.map_err(RestoreError::file("write", &place.path))?, Ordering::Relaxed);
        shared.bytes.fetch_add(plain_bytes, Ordering::Relaxed);
    }
    Ok(())
}

/// Which of a file's pages lie in these bytes of it, counted as PostgreSQL counts them (`BLCKSZ`, 8192 bytes).
pub(crate) fn blocks(at: u64, bytes: u64) -> String {
    let size = BLOCK_BYTES as u64;
    match (at / size, (at + bytes.max(1) - 1) / size) {
        (first, last) if first == last => format!("block {first}"),
        (first, last) => format!("blocks {first} to {last}"),
    }
}

/// Writes the blocks of `bytes` that are not at `at` already; returns how many bytes that were. What was read just now for its digest
/// is read again rather than kept: it is still in the page cache, and a span of it would be too much to hold.
fn write_changes(file: &File, bytes: &[u8], at: u64, there: &mut Vec<u8>) -> std::io::Result<u64> {
    there.resize(bytes.len(), 0);
    file.read_exact_at(there, at)?;
    let (mut written, mut run) = (0, 0..0);
    for (index, (new, old)) in bytes.chunks(BLOCK_BYTES).zip(there.chunks(BLOCK_BYTES)).enumerate() {
        let from = index * BLOCK_BYTES;
        if new == old {
            written += write_run(file, bytes, at, &run)?;
            run = from..from;
        } else {
            let begin = if run.is_empty() { from } else { run.start };
            run = begin..from + new.len();
        }
    }
    Ok(written + write_run(file, bytes, at, &run)?)
}

fn write_run(file: &File, bytes: &[u8], at: u64, run: &std::ops::Range<usize>) -> std::io::Result<u64> {
    if !run.is_empty() {
        crate::pacing::write_at(file, &bytes[run.clone()], at + run.start as u64)?;
    }
    Ok(run.len() as u64)
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
    fn only_the_blocks_that_differ_are_written() {
        let file = tempfile::tempfile().unwrap();
        let wanted: Vec<u8> = (0..5 * BLOCK_BYTES + 100).map(|i| (i / 7) as u8).collect();
        for (changed, blocks) in [(vec![], 0), (vec![3], 1), (vec![0, BLOCK_BYTES, 2 * BLOCK_BYTES - 1, 4 * BLOCK_BYTES], 3)] {
            let mut old = wanted.clone();
            changed.iter().for_each(|i: &usize| old[*i] ^= 1);
            file.write_all_at(&old, 1000).unwrap();
            assert_eq!(write_changes(&file, &wanted, 1000, &mut Vec::new()).unwrap(), (blocks * BLOCK_BYTES) as u64);
            file.read_exact_at(&mut old, 1000).unwrap();
            assert!(old == wanted, "{changed:?}");
        }
        let mut old = wanted.clone();
        old[5 * BLOCK_BYTES + 99] ^= 1;
        file.write_all_at(&old, 0).unwrap();
        assert_eq!(write_changes(&file, &wanted, 0, &mut Vec::new()).unwrap(), 100, "the last, short block");
    }
}
