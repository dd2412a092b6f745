//! A snapshot of a bucket or folder into a repository: what did not change since the last one is referred to, not stored again.

use crate::{PackagesError, Settings};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use repo::{ChunkRef, Pack, SnapshotDocument, SnapshotHeader, SnapshotObject, SnapshotReader, SnapshotWriter, Writer};
use seal::{CHUNK_BYTES, Compression, Digester, Protection, Sealer};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use store::{Item, ItemFacts, Site};
use terms::{BackupId, BackupKind, Clock, Event, Events, SnapshotOfProgress, Timestamp};
use tokio::sync::mpsc;

/// A pack is closed after this many plain bytes.
const PACK_PLAIN_BYTES: u64 = 32 << 20;
/// An object up to this size is read whole, several at once; a larger one alone, in pieces of this size.
const WHOLE_BYTES_MAX: u64 = 4 << 20;
/// So many small objects are read at once.
const READS_AT_ONCE: usize = 8;
/// How often an object that changes while it is read is read again.
const READ_TRIES: usize = 5;

/// What a snapshot came to.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    pub snapshot: SnapshotDocument,
    /// Objects that were listed, and gone before they were read.
    pub vanished: u64,
    pub took_seconds: f64,
}

/// An object with what has to be done for it.
enum Found {
    /// As the last snapshot has it.
    Kept(SnapshotObject),
    /// Read whole.
    Read(Item, ItemFacts, Bytes),
    Large(Item),
    Vanished,
}

/// What the sealing thread is told.
enum Told {
    Kept(SnapshotObject),
    Begin(Item, ItemFacts),
    Chunk(Bytes),
    End,
}

/// Makes a snapshot. One that breaks off is not listed; the next one stores anew what it had stored.
pub async fn snapshot(settings: &Settings, writer: &Writer, clock: &dyn Clock, events: Arc<dyn Events>) -> Result<SnapshotReport, PackagesError> {
    let begun_at = Instant::now();
    let site = Site::open(&settings.primary.url, &settings.primary.options)?;
    let reader = writer.reader();
    let listed = reader.snapshots().await?;
    let last = listed.iter().rev().find(|snapshot| snapshot.source == site.address());
    let began = clock.now();
    let mut id = BackupId::begun(began);
    while listed.last().is_some_and(|newest| newest.id >= id) {
        id = id.next();
    }
    let protection = writer.snapshot_protection(began).await?;
    let header = SnapshotHeader {
        format: SnapshotDocument::stamp().0,
        repository: reader.document().id,
        snapshot: id,
        source: site.address(),
        began,
        chunk_bytes: CHUNK_BYTES as u32,
        encryption: reader.document().encryption,
    };
    let sealing = Sealing { writer: writer.clone(), protection: protection.clone(), id, digester: reader.digester().await? };
    let (tell, told) = mpsc::channel(16);
    let thread = tokio::task::spawn_blocking(move || sealing.run(header, told));

    let before = match last {
        Some(last) => known(SnapshotReader::open(reader, last).await?, last.id),
        None => futures::stream::empty().boxed(),
    };
    let vanished = match feed(&site, before, &tell, &*events).await {
        Ok(vanished) => vanished,
        Err(error) => {
            // A list without an end is never published.
            drop(tell);
            // A thread that failed is the reason why nobody listened.
            return Err(thread.await.map_err(|e| PackagesError::Bug(e.to_string()))?.err().unwrap_or(error));
        }
    };
    drop(tell);
    let ended = clock.now();
    let sealed = thread.await.map_err(|e| PackagesError::Bug(e.to_string()))??;
    let (manifest, mut counts) = (sealed.manifest, sealed.counts);
    let (objects, bytes, manifest_bytes) =
        tokio::task::spawn_blocking(move || manifest.finish(ended)).await.map_err(|e| PackagesError::Bug(e.to_string()))??;
    counts.bytes_stored += manifest_bytes;
    // Nothing is listed before all that it needs is durable.
    writer.settle().await?;
    let (format, written_by) = SnapshotDocument::stamp();
    let document = SnapshotDocument {
        format,
        id,
        kind: BackupKind::Packages,
        repository: reader.document().id,
        source: site.address(),
        began,
        ended,
        objects,
        bytes,
        objects_new: counts.objects_new,
        bytes_new: counts.bytes_new,
        bytes_stored: counts.bytes_stored,
        packs: counts.packs,
        encryption: reader.document().encryption,
        key: match &protection {
            Protection::Sealed(key) => Some(key.id()),
            Protection::Plain => None,
        },
        needs: counts.needs,
        written_by,
    };
    writer.publish_snapshot(&document).await?;
    Ok(SnapshotReport { snapshot: document, vanished, took_seconds: begun_at.elapsed().as_secs_f64() })
}

/// The objects of an earlier snapshot, each with where its chunks lie.
fn known(reader: SnapshotReader, id: BackupId) -> BoxStream<'static, Result<SnapshotObject, PackagesError>> {
    futures::stream::try_unfold(reader, move |mut reader| async move {
        let next = reader.next().await?.map(|object| SnapshotObject { stored_in: object.stored_in.or(Some(id)), ..object });
        Ok(next.map(|object| (object, reader)))
    })
    .boxed()
}

/// Lists the source beside the last snapshot, reads what changed, and hands all of it on in order.
async fn feed(
    site: &Site,
    before: BoxStream<'static, Result<SnapshotObject, PackagesError>>,
    tell: &mpsc::Sender<Told>,
    events: &dyn Events,
) -> Result<u64, PackagesError> {
    let state = (site.current().map_err(PackagesError::from).boxed(), before, None::<SnapshotObject>);
    let joined = futures::stream::try_unfold(state, |(mut items, mut before, mut head)| async move {
        let Some(item) = items.try_next().await? else { return Ok::<_, PackagesError>(None) };
        while head.as_ref().is_none_or(|known| known.key < item.key) {
            head = before.try_next().await?;
            if head.is_none() {
                break;
            }
        }
        let kept = head.take_if(|known| known.key == item.key);
        let is_same = |known: &SnapshotObject| (&known.etag, known.size, known.modified) == (&item.etag, item.bytes, item.modified);
        let kept = kept.filter(is_same);
        Ok(Some(((item, kept), (items, before, head))))
    });
    let mut found = joined
        .map_ok(|(item, kept)| async move {
            match kept {
                Some(kept) => Ok(Found::Kept(kept)),
                None if item.bytes > WHOLE_BYTES_MAX => Ok(Found::Large(item)),
                None => read_whole(site, item).await,
            }
        })
        .try_buffered(READS_AT_ONCE)
        .boxed();
    let gone = || PackagesError::Bug("the sealing thread ended early".into());
    let send = async |told: Told| tell.send(told).await.map_err(|_| gone());
    let (mut vanished, mut progress) = (0, SnapshotOfProgress::default());
    while let Some(next) = found.try_next().await? {
        match next {
            Found::Kept(object) => {
                progress.bytes_done += object.size;
                send(Told::Kept(object)).await?;
            }
            Found::Read(item, facts, body) => {
                progress.bytes_done += item.bytes;
                send(Told::Begin(item, facts)).await?;
                for at in (0..body.len()).step_by(CHUNK_BYTES) {
                    send(Told::Chunk(body.slice(at..body.len().min(at + CHUNK_BYTES)))).await?;
                }
                send(Told::End).await?;
            }
            Found::Large(item) => {
                let bytes = item.bytes;
                if !read_large(site, item, &send).await? {
                    vanished += 1;
                }
                progress.bytes_done += bytes;
            }
            Found::Vanished => vanished += 1,
        }
        progress.files_done += 1;
        progress.bytes_total = progress.bytes_done;
        if progress.files_done % 256 == 0 {
            events.tell(Event::Progress(progress));
        }
    }
    Ok(vanished)
}

/// Reads a small object; one that changes meanwhile is read as it is then.
async fn read_whole(site: &Site, mut item: Item) -> Result<Found, PackagesError> {
    for _ in 0..READ_TRIES {
        if let Some((body, facts)) = site.read(&item, 0..item.bytes).await? {
            return Ok(Found::Read(item, facts, body));
        }
        match site.look(&item.key).await? {
            None => return Ok(Found::Vanished),
            Some(found) if found.bytes > WHOLE_BYTES_MAX => return Ok(Found::Large(found)),
            Some(found) => item = found,
        }
    }
    Err(unsteady(&item))
}

fn unsteady(item: &Item) -> PackagesError {
    PackagesError::Unsteady { key: item.key.clone() }
}

/// Reads a large object piece by piece. Its first piece is begun only once; one that changes on the way ends the snapshot.
async fn read_large(site: &Site, mut item: Item, send: &impl AsyncFn(Told) -> Result<(), PackagesError>) -> Result<bool, PackagesError> {
    let mut first = None;
    for _ in 0..READ_TRIES {
        first = site.read(&item, 0..item.bytes.min(WHOLE_BYTES_MAX)).await?;
        if first.is_some() {
            break;
        }
        match site.look(&item.key).await? {
            None => return Ok(false),
            Some(found) => item = found,
        }
    }
    let Some((mut body, facts)) = first else { return Err(unsteady(&item)) };
    send(Told::Begin(item.clone(), facts)).await?;
    let mut at = 0;
    loop {
        for from in (0..body.len()).step_by(CHUNK_BYTES) {
            send(Told::Chunk(body.slice(from..body.len().min(from + CHUNK_BYTES)))).await?;
        }
        at += body.len() as u64;
        if at >= item.bytes {
            break;
        }
        let next = site.read(&item, at..item.bytes.min(at + WHOLE_BYTES_MAX)).await?;
        body = next.ok_or_else(|| unsteady(&item))?.0;
    }
    send(Told::End).await?;
    Ok(true)
}

/// Seals what it is told, in a thread of its own.
struct Sealing {
    writer: Writer,
    protection: Protection,
    id: BackupId,
    digester: Digester,
}

#[derive(Default)]
struct Counts {
    objects_new: u64,
    bytes_new: u64,
    bytes_stored: u64,
    packs: u32,
    needs: BTreeSet<BackupId>,
}

struct Sealed {
    manifest: SnapshotWriter,
    counts: Counts,
}

impl Sealing {
    fn run(self, header: SnapshotHeader, mut told: mpsc::Receiver<Told>) -> Result<Sealed, PackagesError> {
        let Self { writer, protection, id, mut digester } = self;
        let mut manifest = SnapshotWriter::begin(&writer, &protection, header)?;
        let mut sealer = Sealer::new(Compression::Zstd(1)).map_err(seal_bug)?;
        let mut counts = Counts::default();
        let mut pack: Option<(Arc<Pack>, u64)> = None;
        let mut object: Option<SnapshotObject> = None;
        while let Some(next) = told.blocking_recv() {
            match next {
                Told::Kept(kept) => {
                    counts.needs.extend(kept.stored_in.filter(|_| !kept.chunks.is_empty()));
                    manifest.write(kept)?;
                }
                Told::Begin(item, facts) => object = Some(begun(item, facts)),
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
                    (counts.objects_new, counts.bytes_new) = (counts.objects_new + 1, counts.bytes_new + done.size);
                    manifest.write(done)?;
                }
            }
        }
        if let Some((last, _)) = pack.take() {
            counts.bytes_stored += Pack::release(last)?.unwrap_or_default();
        }
        Ok(Sealed { manifest, counts })
    }
}

fn begun(item: Item, facts: ItemFacts) -> SnapshotObject {
    let Item { key, bytes: size, modified, etag, .. } = item;
    SnapshotObject { key, size, modified, etag, facts, stored_in: None, chunks: Vec::new() }
}

fn seal_bug(error: seal::SealError) -> PackagesError {
    PackagesError::Bug(error.to_string())
}

/// How old the newest snapshot of this source is; `None` when there is none.
pub fn age_seconds(snapshots: &[SnapshotDocument], source: &str, now: Timestamp) -> Option<f64> {
    snapshots.iter().rev().find(|snapshot| snapshot.source == source).map(|newest| now.seconds_since(newest.began).max(0.0))
}
