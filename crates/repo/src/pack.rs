//! Packs: many chunks of one backup in one object, appended by several threads.

use crate::{RepoError, Writer, layout};
use seal::{Compression, HEADER_BYTES, ObjectKind, Protection, SealedChunk, SealedObject, Sealer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use store::ObjectSink;
use terms::{BackupId, BackupKind};

/// A pack being written. Frame numbers are handed out before the work is, so that any thread may seal any frame.
pub struct Pack {
    number: u32,
    object: SealedObject,
    sink: Arc<dyn ObjectSink>,
    frames: AtomicU32,
    bytes_stored: AtomicU64,
}

impl Pack {
    /// Begins pack `number` (from 1) of a backup. Blocking; call it outside the runtime's threads.
    pub fn begin(writer: &Writer, protection: &Protection, kind: BackupKind, backup: BackupId, number: u32) -> Result<Arc<Self>, RepoError> {
        let path = layout::pack_path(kind, backup, number);
        let object = writer.seal_object(protection, ObjectKind::Pack, &path);
        let sink = match writer.store.begin(&path) {
            Ok(sink) => sink,
            // Only the first pack tells two backups of one name apart: whoever wrote it owns the name.
            Err(store::StoreError::Exists { .. }) if number == 1 => return Err(RepoError::BackupExists { backup: backup.to_string() }),
            Err(e) => return Err(e.into()),
        };
        sink.append(object.header())?;
        Ok(Arc::new(Self { number, object, sink, frames: AtomicU32::new(0), bytes_stored: AtomicU64::new(HEADER_BYTES as u64) }))
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }
    /// What seals its frames.
    pub fn object(&self) -> &SealedObject {
        &self.object
    }
    /// Reserves the next frame's number.
    pub fn reserve(&self) -> u32 {
        self.frames.fetch_add(1, Ordering::Relaxed)
    }
    /// How many frames were reserved.
    pub fn frames(&self) -> u32 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Appends a frame and returns its offset in the pack.
    pub fn append(&self, chunk: &SealedChunk<'_>) -> Result<u64, RepoError> {
        let offset = self.sink.append(chunk.bytes())?;
        self.bytes_stored.fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed);
        Ok(offset)
    }

    /// Gives up one hold on the pack. Whoever lets go last ends it, with an empty frame marked as last,
    /// and is told the pack's size in bytes.
    pub fn release(pack: Arc<Self>) -> Result<Option<u64>, RepoError> {
        let Some(pack) = Arc::into_inner(pack) else { return Ok(None) };
        let mut sealer = Sealer::new(Compression::None)?;
        pack.append(&sealer.seal(&pack.object, pack.frames(), true, &[])?)?;
        pack.sink.finish()?;
        Ok(Some(pack.bytes_stored.into_inner()))
    }
}
