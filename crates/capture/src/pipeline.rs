//! Files in, sealed chunks in packs and lines in the manifest out: one feeder, many workers, one assembler.
//!
//! The unit of work is a chunk, not a file, so that all cores stay busy to the last megabyte. The feeder hands
//! out packs and frame numbers in the order of the files; hence the packs of a manifest's chunks never go back, and
//! a restore reads every pack once, from front to back. Memory is bounded by the length of the queues.

use crate::CaptureError;
use crate::pages::PageVerifier;
use crate::throttle::Throttle;
use crossbeam_channel::{Receiver, Sender, bounded};
use repo::{ChunkRef, Entry, ManifestEnd, ManifestWriter, Pack, Writer};
use seal::{CHUNK_BYTES, Compression, Digester, Protection, Sealer};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use terms::{BackupId, BackupKind};

/// A pack is closed after this many plain bytes (32 MiB), so that one that does not compress still fits in memory.
const PACK_PLAIN_BYTES: u64 = 32 << 20;

/// What a pipeline needs to know.
pub(crate) struct Settings {
    pub(crate) writer: Writer,
    pub(crate) protection: Protection,
    pub(crate) backup: BackupId,
    pub(crate) compression: Compression,
    pub(crate) digester: Digester,
    pub(crate) jobs: usize,
    pub(crate) throttle: Throttle,
    /// `None` when the cluster has no page checksums or the server verifies them.
    pub(crate) pages: Option<Arc<PageVerifier>>,
}

/// What is done so far; read by progress, written by workers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) bytes_stored: AtomicU64,
}

/// Where a chunk's bytes come from.
pub(crate) enum Content {
    /// So many bytes of a file that is open, from this offset.
    Slice { file: Arc<File>, offset: u64, bytes: usize },
    /// Bytes that arrived.
    Arrived(Vec<u8>),
}

/// A chunk to be done.
struct Task {
    file: Arc<FileFacts>,
    content: Content,
    pack: Arc<Pack>,
    frame: u32,
    index: usize,
    answer: Sender<Chunk>,
}

/// A chunk that is done: which of its file's, where it lies, and how many plain bytes it has.
struct Chunk {
    index: usize,
    place: ChunkRef,
    bytes: u64,
}

/// What the workers need to know of a file.
pub(crate) struct FileFacts {
    /// On this host, for messages and for reading again.
    pub(crate) path: PathBuf,
    /// As the manifest names it.
    pub(crate) name: String,
    /// The block number of the file's first page, for files made of pages with checksums.
    pub(crate) first_block: Option<u32>,
    /// A file that shrinks while it is read is filled up with zeros, as PostgreSQL does: replay puts it right.
    pub(crate) pad: bool,
}

/// A line for the manifest, complete once its chunks have come.
struct Line {
    entry: Entry,
    chunks: Receiver<Chunk>,
    count: usize,
}

/// A running pipeline; the thread that owns it feeds it.
pub(crate) struct Pipeline {
    settings: Arc<Settings>,
    tally: Arc<Tally>,
    tasks: Sender<Task>,
    lines: Sender<Line>,
    workers: Vec<JoinHandle<()>>,
    assembler: JoinHandle<Result<ManifestWriter, CaptureError>>,
    pack: Option<(Arc<Pack>, u64)>,
    packs: u32,
    failed: Arc<AtomicBool>,
    trouble: Arc<Mutex<Option<CaptureError>>>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) manifest: ManifestWriter,
    pub(crate) packs: u32,
}

impl Pipeline {
    /// Starts the threads.
    pub(crate) fn start(settings: Settings, manifest: ManifestWriter, tally: Arc<Tally>) -> Self {
        let settings = Arc::new(settings);
        let jobs = settings.jobs.max(1);
        let (tasks, to_do) = bounded::<Task>(jobs * 2);
        let (lines, to_write) = bounded::<Line>(256);
        let failed = Arc::new(AtomicBool::new(false));
        let trouble = Arc::new(Mutex::new(None));
        let workers = (0..jobs)
            .map(|_| {
                let (settings, to_do, tally) = (settings.clone(), to_do.clone(), tally.clone());
                let (failed, trouble) = (failed.clone(), trouble.clone());
                thread::spawn(move || {
                    if let Err(e) = work(&settings, &to_do, &tally) {
                        note(&failed, &trouble, e);
                        // Others may be waiting for room in the queue: empty it so that nobody hangs.
                        to_do.iter().for_each(drop);
                    }
                })
            })
            .collect();
        let assembler = {
            let (tally, failed) = (tally.clone(), failed.clone());
            thread::spawn(move || {
                let outcome = assemble(manifest, &to_write, &tally);
                if outcome.is_err() {
                    failed.store(true, Ordering::Relaxed);
                    to_write.iter().for_each(drop);
                }
                outcome
            })
        };
        Self { settings, tally, tasks, lines, workers, assembler, pack: None, packs: 0, failed, trouble }
    }

    /// What is done so far.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Adds a line that has no chunks.
    pub(crate) fn line(&self, entry: Entry) -> Result<(), CaptureError> {
        let (_, chunks) = bounded(0);
        self.send_line(Line { entry, chunks, count: 0 })
    }

    /// Begins a file of `count` chunks; its size and chunks are filled in as they come.
    pub(crate) fn begin_file(&self, facts: FileFacts, entry: Entry, count: usize) -> Result<FileFeed, CaptureError> {
        // Room for every chunk: a worker must never wait for the assembler, who may be waiting for another file.
        let (answer, chunks) = bounded(count);
        self.send_line(Line { entry, chunks, count })?;
        Ok(FileFeed { facts: Arc::new(facts), answer, fed: 0 })
    }

    /// Feeds the next chunk of a file. Blocks while the workers have enough to do.
    pub(crate) fn chunk(&mut self, feed: &mut FileFeed, content: Content) -> Result<(), CaptureError> {
        let plain = match &content {
            Content::Slice { bytes, .. } => *bytes,
            Content::Arrived(bytes) => bytes.len(),
        } as u64;
        let pack = self.pack_for(plain)?;
        let frame = pack.reserve();
        let task = Task { file: feed.facts.clone(), content, pack, frame, index: feed.fed, answer: feed.answer.clone() };
        feed.fed += 1;
        if self.failed.load(Ordering::Relaxed) || self.tasks.send(task).is_err() {
            return Err(self.first_trouble());
        }
        Ok(())
    }

    fn pack_for(&mut self, plain: u64) -> Result<Arc<Pack>, CaptureError> {
        if let Some((pack, filled)) = &mut self.pack
            && *filled + plain <= PACK_PLAIN_BYTES
        {
            *filled += plain;
            return Ok(pack.clone());
        }
        self.close_pack()?;
        self.packs += 1;
        let Settings { writer, protection, backup, .. } = &*self.settings;
        let pack = Pack::begin(writer, protection, BackupKind::Full, *backup, self.packs)?;
        self.pack = Some((pack.clone(), plain));
        Ok(pack)
    }

    fn close_pack(&mut self) -> Result<(), CaptureError> {
        if let Some((pack, _)) = self.pack.take() {
            release(pack, &self.tally)?;
        }
        Ok(())
    }

    fn send_line(&self, line: Line) -> Result<(), CaptureError> {
        if self.failed.load(Ordering::Relaxed) || self.lines.send(line).is_err() {
            return Err(self.first_trouble());
        }
        Ok(())
    }

    /// The error of a worker, if one has it; else the assembler's is told by [`Pipeline::finish`].
    fn first_trouble(&self) -> CaptureError {
        let mut trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        trouble.take().unwrap_or(CaptureError::Interrupted)
    }

    /// Everything was fed: waits for the workers and returns the manifest, still without its last line.
    pub(crate) fn finish(mut self) -> Result<Outcome, CaptureError> {
        let closed = self.close_pack();
        let Self { tasks, lines, workers, assembler, packs, trouble, .. } = self;
        drop((tasks, lines));
        for worker in workers {
            worker.join().map_err(|_| CaptureError::Bug("a worker panicked".into()))?;
        }
        let manifest = assembler.join().map_err(|_| CaptureError::Bug("the assembler panicked".into()))?;
        if let Some(e) = trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            return Err(e);
        }
        closed?;
        Ok(Outcome { manifest: manifest?, packs })
    }
}

impl Outcome {
    /// Writes the last line; returns the manifest's size in bytes.
    pub(crate) fn finish(self, end: ManifestEnd) -> Result<u64, CaptureError> {
        Ok(self.manifest.finish(end)?)
    }
}

/// A file being fed.
pub(crate) struct FileFeed {
    facts: Arc<FileFacts>,
    answer: Sender<Chunk>,
    fed: usize,
}

fn note(failed: &AtomicBool, trouble: &Mutex<Option<CaptureError>>, error: CaptureError) {
    failed.store(true, Ordering::Relaxed);
    trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
}

fn release(pack: Arc<Pack>, tally: &Tally) -> Result<(), CaptureError> {
    if let Some(bytes) = Pack::release(pack)? {
        tally.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
    }
    Ok(())
}

/// A worker: read, verify, digest, compress, seal, append; the chunk stays in this core's cache all along.
fn work(settings: &Settings, to_do: &Receiver<Task>, tally: &Tally) -> Result<(), CaptureError> {
    let mut sealer = Sealer::new(settings.compression)?;
    let mut digester = settings.digester.clone();
    let mut buffer = vec![0u8; CHUNK_BYTES];
    for task in to_do {
        let Task { file, content, pack, frame, index, answer } = task;
        let plain: &[u8] = match &content {
            Content::Arrived(bytes) => bytes,
            Content::Slice { file: open, offset, bytes } => {
                settings.throttle.take(*bytes as u64);
                let read = crate::reading::read_at(open, *offset, &mut buffer[..*bytes]).map_err(|source| CaptureError::File {
                    operation: "read",
                    path: file.path.clone(),
                    source,
                })?;
                let keep = if file.pad { *bytes } else { read };
                buffer[read.min(keep)..keep].fill(0);
                if let (Some(pages), Some(first_block)) = (&settings.pages, file.first_block) {
                    pages.verify(open, &file.name, *offset, first_block, &mut buffer[..read]);
                }
                &buffer[..keep]
            }
        };
        let digest = digester.digest(plain);
        let sealed = sealer.seal(pack.object(), frame, false, plain)?;
        let offset = pack.append(&sealed)?;
        let place = ChunkRef(pack.number(), offset, sealed.bytes().len() as u32, digest);
        let bytes = plain.len() as u64;
        release(pack, tally)?;
        tally.bytes.fetch_add(bytes, Ordering::Relaxed);
        if answer.send(Chunk { index, place, bytes }).is_err() {
            // Nobody listens any more: the assembler has failed, and it is the one to tell why.
            return Ok(());
        }
    }
    Ok(())
}

/// Writes the manifest's lines in the order in which the files were fed.
fn assemble(mut manifest: ManifestWriter, lines: &Receiver<Line>, tally: &Tally) -> Result<ManifestWriter, CaptureError> {
    for Line { mut entry, chunks, count } in lines {
        if let Entry::File(body) | Entry::Config(body) = &mut entry {
            let mut places = vec![None; count];
            body.size = 0;
            for _ in 0..count {
                // A worker that failed drops its end; it has said why.
                let chunk = chunks.recv().map_err(|_| CaptureError::Interrupted)?;
                places[chunk.index] = Some(chunk.place);
                body.size += chunk.bytes;
            }
            body.chunks = places.into_iter().flatten().collect();
            tally.files.fetch_add(1, Ordering::Relaxed);
        }
        manifest.write(&entry)?;
    }
    Ok(manifest)
}
