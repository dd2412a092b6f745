//! Proves packs: every frame of each against the chunks that a manifest names.

use super::Found;
use bytes::BytesMut;
use repo::{ChunkRef, Reader, RepoError, pack_path};
use seal::{Digest, Digester, FRAME_HEADER_BYTES, HEADER_BYTES, KeyId, OpenObject, Opener, SealError, frame_bytes};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{ObjectPath, StoreError};
use terms::{BackupId, BackupKind};

/// How much of a pack is fetched at once.
const SPAN_BYTES: u64 = 4 << 20;

/// A chunk as the manifest names it.
struct Chunk {
    stored: u32,
    plain_bytes: u64,
    digest: Digest,
    file: Arc<str>,
}

/// The chunks of a pack, by where they lie in it.
type Chunks = BTreeMap<u64, Chunk>;

/// What whoever proves a backup or a snapshot hears of.
pub(super) enum Told {
    /// This object is well, and so many bytes were read.
    Well(ObjectPath, u64),
    Bad(Found, u64),
}

/// Who hears of it; false ends the proof.
pub(super) type Tell<'t> = dyn FnMut(Told) -> bool + Send + 't;

/// Which packs are looked at.
#[derive(Clone, Copy)]
pub(super) enum Packs {
    After(u32),
    Only(u32),
}

impl Packs {
    fn wants(self, number: u32) -> bool {
        match self {
            Self::After(last) => number > last,
            Self::Only(one) => number == one,
        }
    }
}

/// Proves pack after pack while a manifest is read that names their chunks in order.
pub(super) struct Prover<'p> {
    reader: &'p Reader,
    kind: BackupKind,
    id: BackupId,
    key: Option<KeyId>,
    packs: Packs,
    digester: Digester,
    /// The pack whose chunks are gathered, and the last one that was named.
    number: u32,
    seen: u32,
    chunks: Chunks,
}

impl<'p> Prover<'p> {
    pub(super) async fn new(reader: &'p Reader, kind: BackupKind, id: BackupId, key: Option<KeyId>, packs: Packs) -> Result<Self, RepoError> {
        let digester = reader.digester().await?;
        Ok(Self { reader, kind, id, key, packs, digester, number: 0, seen: 0, chunks: Chunks::new() })
    }

    /// The last pack that was named.
    pub(super) fn seen(&self) -> u32 {
        self.seen
    }

    /// Notes the chunks of a file of this size, each but the last of `chunk_bytes`; proves every pack that is complete then. False when that
    /// was to be the end.
    pub(super) async fn file(
        &mut self,
        name: &str,
        size: u64,
        chunk_bytes: u64,
        chunks: Vec<ChunkRef>,
        tell: &mut Tell<'_>,
    ) -> Result<bool, RepoError> {
        let file: Arc<str> = name.into();
        for (index, chunk) in chunks.into_iter().enumerate() {
            if chunk.0 != self.number {
                if !self.end(tell).await? {
                    return Ok(false);
                }
                self.number = chunk.0;
            }
            self.seen = self.seen.max(chunk.0);
            if self.packs.wants(chunk.0) {
                let plain_bytes = size.saturating_sub(index as u64 * chunk_bytes).min(chunk_bytes);
                self.chunks.insert(chunk.1, Chunk { stored: chunk.2, plain_bytes, digest: chunk.3, file: file.clone() });
            }
        }
        Ok(true)
    }

    /// Proves the pack whose chunks were gathered last.
    pub(super) async fn end(&mut self, tell: &mut Tell<'_>) -> Result<bool, RepoError> {
        let chunks = std::mem::take(&mut self.chunks);
        Ok(!self.packs.wants(self.number) || self.number == 0 || tell(self.pack(self.number, chunks).await?))
    }

    async fn pack(&mut self, number: u32, chunks: Chunks) -> Result<Told, RepoError> {
        let path = pack_path(self.kind, self.id, number);
        let files = files_of(&chunks);
        let mut read = 0;
        match self.frames(&path, chunks, &mut read).await {
            Ok(()) => Ok(Told::Well(path, read)),
            Err(e) => Ok(Told::Bad(Found::of(path.to_string(), e)?.holding(files), read)),
        }
    }

    /// Opens frame after frame: each is a chunk that the manifest names, save the last, and none is missing.
    async fn frames(&mut self, path: &ObjectPath, mut chunks: Chunks, read: &mut u64) -> Result<(), RepoError> {
        let store = self.reader.store();
        let bad = |source| RepoError::Object { path: path.to_string(), source };
        let length = store.info(path).await?.ok_or_else(|| StoreError::Missing { store: store.address(), path: path.to_string() })?.bytes;
        let (mut pending, mut fetched, mut at) = (BytesMut::new(), 0, HEADER_BYTES as u64);
        let (mut object, mut opener, mut plain): (Option<OpenObject>, _, _) = (None, Opener::new()?, Vec::new());
        let (mut frames, mut has_ended) = (0, false);
        while fetched < length {
            let span = store.get_range(path, fetched..length.min(fetched + SPAN_BYTES)).await?;
            fetched += span.len() as u64;
            *read = fetched;
            pending.extend_from_slice(&span);
            if object.is_none() {
                object = Some(self.reader.open_pack(path, self.key, &pending).await?);
                drop(pending.split_to(HEADER_BYTES));
            }
            let Some(object) = &object else { continue };
            while pending.len() >= FRAME_HEADER_BYTES {
                let size = frame_bytes(&pending).map_err(bad)?;
                if has_ended || pending.len() < size {
                    break;
                }
                let mut frame = pending.split_to(size);
                let info = opener.open(object, &mut frame, &mut plain).map_err(bad)?;
                match chunks.remove(&at) {
                    _ if info.last => has_ended = plain.is_empty() && info.number == frames,
                    Some(chunk) if u64::from(chunk.stored) != size as u64 || chunk.plain_bytes != plain.len() as u64 => {
                        return Err(bad(SealError::WrongDigest));
                    }
                    Some(chunk) if self.digester.digest(&plain) != chunk.digest => return Err(bad(SealError::WrongDigest)),
                    // Every frame is a chunk of the manifest; another frame would be a chunk of nothing.
                    Some(_) => frames += 1,
                    None => return Err(bad(SealError::OutOfOrder { number: info.number })),
                }
                if info.last && !has_ended {
                    return Err(bad(SealError::OutOfOrder { number: info.number }));
                }
                at += size as u64;
            }
        }
        match has_ended && pending.is_empty() && chunks.is_empty() {
            true => Ok(()),
            false => Err(bad(SealError::Short { number: frames })),
        }
    }
}

/// The first few files of which a pack holds something.
fn files_of(chunks: &Chunks) -> String {
    let mut files: Vec<&str> = chunks.values().map(|chunk| &*chunk.file).collect();
    files.dedup();
    let more = files.len().saturating_sub(3);
    let named = files.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more files") } else { named }
}
