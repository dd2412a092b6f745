//! Proves a backup: its manifest line by line, and every frame of every pack against the chunks that the manifest names.

use super::Found;
use bytes::BytesMut;
use repo::{BackupDocument, Entry, ManifestReader, Reader, RepoError, manifest_path, pack_path};
use seal::{Digest, Digester, FRAME_HEADER_BYTES, HEADER_BYTES, ObjectKind, OpenObject, Opener, SealError, frame_bytes};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{ObjectPath, StoreError};

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

/// What whoever proves a backup hears of.
pub(super) enum Told {
    /// This object is well, and so many bytes were read.
    Well(ObjectPath, u64),
    Bad(Found, u64),
}

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

/// Goes through a backup's packs in order; `tell` ends it by saying false. Whether it came to the end. What is damaged is told of; what
/// cannot be read just now is the error.
pub(super) async fn prove(
    reader: &Reader,
    backup: &BackupDocument,
    packs: Packs,
    tell: &mut (dyn FnMut(Told) -> bool + Send),
) -> Result<bool, RepoError> {
    let path = manifest_path(backup.kind, backup.id);
    let mut digester = reader.digester().await?;
    let mut manifest = match ManifestReader::open_for(reader, backup).await {
        Ok(manifest) => manifest,
        Err(e) => return Ok(tell(Told::Bad(Found::of(path.to_string(), e)?, 0))),
    };
    let chunk_bytes = u64::from(manifest.header().chunk_bytes);
    let (mut number, mut chunks, mut seen) = (0, Chunks::new(), 0);
    let mut prover = Prover { reader, backup, digester: &mut digester };
    loop {
        let entry = match manifest.next().await {
            Ok(entry) => entry,
            Err(e) => return Ok(tell(Told::Bad(Found::of(path.to_string(), e)?, 0))),
        };
        match entry {
            Some(Entry::File(body) | Entry::Config(body)) => {
                let file: Arc<str> = body.path.into();
                for (index, chunk) in body.chunks.into_iter().enumerate() {
                    if chunk.0 != number {
                        if packs.wants(number) && number > 0 && !tell(prover.pack(number, std::mem::take(&mut chunks)).await?) {
                            return Ok(false);
                        }
                        chunks.clear();
                        number = chunk.0;
                    }
                    seen = seen.max(number);
                    if packs.wants(number) {
                        let plain_bytes = (body.size - index as u64 * chunk_bytes).min(chunk_bytes);
                        chunks.insert(chunk.1, Chunk { stored: chunk.2, plain_bytes, digest: chunk.3, file: file.clone() });
                    }
                }
            }
            Some(Entry::End(end)) if end.packs != backup.packs || seen != end.packs => {
                let why = format!("it speaks of {seen} packs and says {}, backup.json says {}", end.packs, backup.packs);
                return Ok(tell(Told::Bad(Found::of(path.to_string(), RepoError::Document { path: path.to_string(), why })?, 0)));
            }
            Some(_) => {}
            None => break,
        }
    }
    if packs.wants(number) && number > 0 && !tell(prover.pack(number, chunks).await?) {
        return Ok(false);
    }
    Ok(match packs {
        // The manifest comes last: then all of it was read.
        Packs::After(_) => tell(Told::Well(path, backup.manifest_bytes)),
        Packs::Only(_) => true,
    })
}

struct Prover<'p> {
    reader: &'p Reader,
    backup: &'p BackupDocument,
    digester: &'p mut Digester,
}

impl Prover<'_> {
    async fn pack(&mut self, number: u32, chunks: Chunks) -> Result<Told, RepoError> {
        let path = pack_path(self.backup.kind, self.backup.id, number);
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
                object = Some(self.reader.open_object(path, ObjectKind::Pack, &pending).await?);
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
                    // In a full backup every frame is a chunk of the manifest; another frame would be a chunk of nothing.
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
