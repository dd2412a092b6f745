//! Seals what is read of the source, in a thread of its own, and writes the snapshot's list.

use crate::PackagesError;
use bytes::Bytes;
use repo::{ChunkRef, Pack, SnapshotEntry, SnapshotHeader, SnapshotObject, SnapshotWriter, Writer};
use seal::{Compression, Digester, Protection, Sealer};
use std::collections::BTreeSet;
use std::sync::Arc;
use terms::{BackupId, BackupKind};
use tokio::sync::mpsc;

/// A pack is closed after this many plain bytes.
const PACK_PLAIN_BYTES: u64 = 32 << 20;

/// What the sealing thread is told.
pub(crate) enum Told {
    /// As it is, without reading: what an earlier snapshot has, or a removal.
    Entry(SnapshotEntry),
    /// An object whose chunks follow.
    Begin(SnapshotObject),
    Chunk(Bytes),
    End,
}

/// Seals what it is told, in a thread of its own.
pub(crate) struct Sealing {
    pub writer: Writer,
    pub protection: Protection,
    pub id: BackupId,
    pub digester: Digester,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub objects_new: u64,
    pub bytes_new: u64,
    pub bytes_stored: u64,
    pub packs: u32,
    pub needs: BTreeSet<BackupId>,
}

pub(crate) struct Sealed {
    pub manifest: SnapshotWriter,
    pub counts: Counts,
}

impl Sealing {
    pub(crate) fn run(self, header: SnapshotHeader, mut told: mpsc::Receiver<Told>) -> Result<Sealed, PackagesError> {
        let Self { writer, protection, id, mut digester } = self;
        let mut manifest = SnapshotWriter::begin(&writer, &protection, header)?;
        let mut sealer = Sealer::new(Compression::Zstd(1)).map_err(seal_bug)?;
        let mut counts = Counts::default();
        let mut pack: Option<(Arc<Pack>, u64)> = None;
        let mut object: Option<SnapshotObject> = None;
        while let Some(next) = told.blocking_recv() {
            match next {
                Told::Entry(entry) => {
                    if let SnapshotEntry::Object(kept) = &entry {
                        counts.needs.extend(kept.stored_in.filter(|_| !kept.chunks.is_empty()));
                    }
                    manifest.write(entry)?;
                }
                Told::Begin(begun) => object = Some(begun),
                Told::Chunk(plain) => {
                    let Some(object) = object.as_mut() else { return Err(PackagesError::Bug("a chunk of no object".into())) };
                    let is_full = pack.as_ref().is_some_and(|(_, filled)| filled + plain.len() as u64 > PACK_PLAIN_BYTES);
                    if is_full && let Some((full, _)) = pack.take() {
                        counts.bytes_stored += Pack::release(full)?.unwrap_or_default();
                    }
                    if pack.is_none() {
                        counts.packs += 1;
                        pack = Some((Pack::begin(&writer, &protection, BackupKind::Packages, id, counts.packs)?, 0));
                    }
                    let Some((open, filled)) = pack.as_mut() else { continue };
                    let sealed = sealer.seal(open.object(), open.reserve(), false, &plain).map_err(seal_bug)?;
                    let offset = open.append(&sealed)?;
                    object.chunks.push(ChunkRef(open.number(), offset, sealed.bytes().len() as u32, digester.digest(&plain)));
                    *filled += plain.len() as u64;
                }
                Told::End => {
                    let Some(done) = object.take() else { return Err(PackagesError::Bug("the end of no object".into())) };
                    if !done.former {
                        (counts.objects_new, counts.bytes_new) = (counts.objects_new + 1, counts.bytes_new + done.size);
                    }
                    manifest.write(SnapshotEntry::Object(done))?;
                }
            }
        }
        if let Some((last, _)) = pack.take() {
            counts.bytes_stored += Pack::release(last)?.unwrap_or_default();
        }
        Ok(Sealed { manifest, counts })
    }
}

fn seal_bug(error: seal::SealError) -> PackagesError {
    PackagesError::Bug(error.to_string())
}
