//! Reads and opens everything that a plan will: each chunk of the backup, each record of the log up to where recovery stops. What
//! passes here, a restore cannot find damaged, unless it is damaged afterwards.

use crate::place::blocks;
use crate::plan::Stop;
use crate::{RestoreError, RestorePlan};
use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender, bounded};
use futures::{StreamExt, TryStreamExt};
use pg::wal::{Record, RecordKind, RecordWalker, WalSource};
use repo::{BackupDocument, ChunkRef, Entry, ManifestReader, Reader, RepoError, pack_path};
use seal::{Digester, HEADER_BYTES, OpenObject, Opener};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use terms::{Event, Events, SnapshotOfProgress};
use tokio::runtime::Handle;

/// Neighbouring chunks are fetched together up to this many stored bytes, and no more than so many at once.
const SPAN_BYTES: u64 = 4 << 20;
const SPAN_CHUNKS: usize = 256;
/// What fetching segments ahead may hold in memory, and how many at most.
const SEGMENTS_IN_MEMORY_BYTES: u64 = 128 << 20;
const SEGMENTS_AHEAD: u64 = 8;

/// What was read and found good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// Opened, and each has the digest that the manifest names.
    pub chunks: u64,
    /// Plain bytes of those chunks.
    pub bytes: u64,
    /// Of the log, up to the one in which recovery stops.
    pub segments: u64,
    /// Of the log, all that are valid in those segments.
    pub records: u64,
}

/// Reads all of it, in bounded memory. The first damage that is met is the error, and names the object.
pub async fn prove_deep(reader: &Reader, plan: &RestorePlan, jobs: usize, events: Arc<dyn Events>) -> Result<Proven, RestoreError> {
    let progress = Arc::new(Progress { done: AtomicU64::new(0), total: plan.backup.bytes + wal_bytes(plan), events });
    let proven = {
        let (reader, backup, progress, runtime) = (reader.clone(), plan.backup.clone(), progress.clone(), Handle::current());
        let work = move || prove_chunks(&reader, &backup, jobs, &progress, &runtime);
        tokio::task::spawn_blocking(work).await.map_err(|e| RestoreError::Bug(e.to_string()))??
    };
    prove_log(reader, plan, &progress, proven).await
}

fn wal_bytes(plan: &RestorePlan) -> u64 {
    plan.replayed as u64 * plan.backup.segment_bytes.bytes()
}

/// How far it is, for whoever watches.
struct Progress {
    done: AtomicU64,
    total: u64,
    events: Arc<dyn Events>,
}

impl Progress {
    fn add(&self, bytes: u64) {
        let bytes_done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.events.tell(Event::Progress(SnapshotOfProgress { bytes_done, bytes_total: self.total, ..SnapshotOfProgress::default() }));
    }
}

/// Walks over every record from where replay begins to where it stops.
async fn prove_log(reader: &Reader, plan: &RestorePlan, progress: &Progress, proven: Proven) -> Result<Proven, RestoreError> {
    let backup = &plan.backup;
    let size = backup.segment_bytes;
    let source = WalSource { major: backup.major, system_id: backup.system_id, timeline: plan.timeline, segment_size: size };
    let mut walker = RecordWalker::at(source, backup.start.lsn);
    let ahead = (SEGMENTS_IN_MEMORY_BYTES / (2 * size.bytes())).clamp(1, SEGMENTS_AHEAD) as usize;
    let fetched = futures::stream::iter(plan.segments.iter().copied()).map(|name| async move {
        let bytes = reader.fetch_segment(backup.system_id, name, size).await?.padded(size);
        bytes.ok_or_else(|| RestoreError::Fetch { name: name.to_string(), why: "It was listed and is gone.".into() })
    });
    let mut fetched = std::pin::pin!(fetched.buffered(ahead));
    let (mut segments, mut records, mut has_stopped) = (0, 0, false);
    while let Some(bytes) = fetched.try_next().await? {
        segments += 1;
        let ended = walker.feed(&bytes, |record| {
            records += 1;
            has_stopped = has_stopped || stops(plan, &record);
        });
        progress.add(size.bytes());
        if has_stopped || ended.is_some() {
            break;
        }
    }
    let end = walker.end().at;
    let promised = match plan.stop {
        Stop::EndOfWal { at } => at,
        Stop::Before(lsn) => lsn,
        _ => plan.loss.stored_to,
    };
    match plan.stop {
        // The log ends there and has no record behind it.
        Stop::EndOfWal { at } if end >= at => {}
        _ if has_stopped => {}
        _ => {
            let broken = plan.segments.iter().rev().find(|name| name.start(size) <= end).or(plan.segments.first());
            let segment = *broken.ok_or_else(|| RestoreError::Bug("a plan without segments was read".into()))?;
            return Err(RestoreError::Cut { target: plan.target.to_string(), at: end, segment, promised });
        }
    }
    Ok(Proven { segments, records, ..proven })
}

/// Whether recovery stops at this record, or before it.
fn stops(plan: &RestorePlan, record: &Record) -> bool {
    match &plan.stop {
        Stop::EndOfWal { .. } => false,
        Stop::Time(at) => record.start >= plan.backup.stop.lsn && record.kind.ended_at().is_some_and(|ended| ended > *at),
        Stop::Before(lsn) => record.start >= *lsn,
        Stop::Name(wanted) => matches!(&record.kind, RecordKind::RestorePoint { name, .. } if name == wanted),
        Stop::Consistent => record.end >= plan.backup.stop.lsn,
    }
}

/// A chunk, and of which file it is.
struct Item {
    file: Arc<str>,
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

/// A pack, opened by whoever comes first.
struct PackHandle {
    number: u32,
    object: OnceLock<OpenObject>,
}

/// What all threads share.
struct Shared<'s> {
    reader: &'s Reader,
    backup: &'s BackupDocument,
    progress: &'s Progress,
    runtime: &'s Handle,
    chunks: AtomicU64,
    bytes: AtomicU64,
    trouble: Mutex<Option<RestoreError>>,
}

impl Shared<'_> {
    fn fail(&self, error: RestoreError) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
    fn has_failed(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Opens every chunk of the backup and compares its digest. Blocking.
fn prove_chunks(reader: &Reader, backup: &BackupDocument, jobs: usize, progress: &Progress, runtime: &Handle) -> Result<Proven, RestoreError> {
    let digester = runtime.block_on(reader.digester())?;
    let mut manifest = runtime.block_on(ManifestReader::open_for(reader, backup))?;
    let (chunks, bytes, trouble) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
    let shared = Shared { reader, backup, progress, runtime, chunks, bytes, trouble };
    // A request to a bucket spends most of its time on the way: more of them than there are cores.
    let threads = if reader.store().is_remote() { jobs.max(1) + 6 } else { jobs.max(1) };
    let (to_do, spans) = bounded::<Span>(threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (spans, digester, shared) = (spans.clone(), digester.clone(), &shared);
            scope.spawn(move || {
                if let Err(error) = work(shared, digester, &spans) {
                    shared.fail(error);
                    spans.iter().for_each(drop);
                }
            });
        }
        drop(spans);
        let mut feeder = Feeder { chunk_bytes: u64::from(manifest.header().chunk_bytes), open: None, spans: to_do };
        loop {
            match runtime.block_on(manifest.next()) {
                Ok(Some(Entry::File(body) | Entry::Config(body))) => {
                    let file: Arc<str> = body.path.into();
                    for (index, chunk) in body.chunks.into_iter().enumerate() {
                        let at = index as u64 * feeder.chunk_bytes;
                        feeder.add(Item { file: file.clone(), at, plain_bytes: (body.size - at).min(feeder.chunk_bytes), chunk });
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break feeder.flush(),
                Err(error) => break shared.fail(error.into()),
            }
            if shared.has_failed() {
                break;
            }
        }
    });
    match shared.trouble.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(Proven { chunks: shared.chunks.into_inner(), bytes: shared.bytes.into_inner(), ..Proven::default() }),
    }
}

/// Puts neighbouring chunks together.
struct Feeder {
    chunk_bytes: u64,
    open: Option<Span>,
    spans: Sender<Span>,
}

impl Feeder {
    fn add(&mut self, item: Item) {
        let ChunkRef(number, offset, stored, _) = item.chunk;
        let end = offset + u64::from(stored);
        if let Some(span) = &mut self.open {
            let (from, to) = (span.from.min(offset), span.to.max(end));
            if span.pack.number == number && to - from <= SPAN_BYTES && span.items.len() < SPAN_CHUNKS {
                (span.from, span.to) = (from, to);
                span.items.push(item);
                return;
            }
        }
        let same = self.open.as_ref().map(|span| span.pack.clone()).filter(|pack| pack.number == number);
        self.flush();
        let pack = same.unwrap_or_else(|| Arc::new(PackHandle { number, object: OnceLock::new() }));
        self.open = Some(Span { pack, from: offset, to: end, items: vec![item] });
    }

    fn flush(&mut self) {
        if let Some(span) = self.open.take() {
            // Nobody takes it only when all have failed, and they said why.
            drop(self.spans.send(span));
        }
    }
}

fn work(shared: &Shared<'_>, mut digester: Digester, spans: &Receiver<Span>) -> Result<(), RestoreError> {
    let mut opener = Opener::new().map_err(RepoError::from)?;
    let mut plain = Vec::new();
    for Span { pack, from, to, items } in spans {
        let path = pack_path(shared.backup.kind, shared.backup.id, pack.number);
        let object = match pack.object.get() {
            Some(object) => object,
            None => {
                // Two threads may both read it, which does no harm.
                let opened = shared.runtime.block_on(async {
                    let header = shared.reader.store().get_range(&path, 0..HEADER_BYTES as u64).await.map_err(RepoError::from)?;
                    shared.reader.open_pack(&path, shared.backup.key, &header).await
                })?;
                pack.object.get_or_init(|| opened)
            }
        };
        let fetched = shared.runtime.block_on(shared.reader.store().get_range(&path, from..to)).map_err(RepoError::from)?;
        // Ours alone: opening decrypts in place.
        let mut bytes = fetched.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let mut moved = 0;
        for Item { file, at, plain_bytes, chunk: ChunkRef(_, offset, stored, digest) } in items {
            let damaged = |source| RestoreError::Chunk {
                file: file.to_string(),
                blocks: blocks(at, plain_bytes),
                backup: shared.backup.id,
                pack: path.to_string(),
                source,
            };
            let begin = (offset - from) as usize;
            opener.open(object, &mut bytes[begin..begin + stored as usize], &mut plain).map_err(damaged)?;
            if plain.len() as u64 != plain_bytes || digester.digest(&plain) != digest {
                return Err(damaged(seal::SealError::WrongDigest));
            }
            shared.chunks.fetch_add(1, Ordering::Relaxed);
            shared.bytes.fetch_add(plain_bytes, Ordering::Relaxed);
            moved += plain_bytes;
        }
        shared.progress.add(moved);
    }
    Ok(())
}
