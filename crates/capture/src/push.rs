//! `archive_command`: stores one WAL file, or says why not; and what waits behind it, before it is asked for.

use crate::CaptureError;
use crate::buffers::Buffers;
use crate::notes::{Identity, Notes};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pg::wal::SegmentHeader;
use pg::{waiting_for_archive, waits_for_archive};
use repo::{Epoch, Kept, RepoError, Writer};
use seal::Compression;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use terms::{Clock, Explain, SegmentSize, WalName};

/// What looking ahead may hold in memory: segments as they are and as they are stored.
const IN_MEMORY_BYTES: u64 = 96 << 20;

/// Stores the file at `path`, whose name says what it is. Equal bytes that are stored already are fine; a file that
/// is not what its name says, or that changes while it is read, is refused. `None` where other bytes have the name of a
/// `.partial` and keep it.
pub async fn push(writer: &Writer, epoch: &Epoch, path: &Path, compression: Compression) -> Result<Option<Kept>, CaptureError> {
    store(writer, epoch, path, compression, &Buffers::default()).await.map(|(kept, _)| kept)
}

async fn store(
    writer: &Writer,
    epoch: &Epoch,
    path: &Path,
    compression: Compression,
    buffers: &Buffers,
) -> Result<(Option<Kept>, Identity), CaptureError> {
    let bad = |why: String| CaptureError::BadWal { path: path.to_owned(), why };
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name: WalName = name.parse().map_err(|e: terms::ParseError| bad(e.to_string()))?;
    let (from, spare) = (path.to_owned(), buffers.clone());
    let read = tokio::task::spawn_blocking(move || read(&from, &spare)).await.map_err(|e| CaptureError::Bug(e.to_string()))?;
    let (plain, identity) = read.map_err(|e| bad(format!("It cannot be read: {e}")))?;
    match name {
        WalName::Segment(segment) | WalName::Partial(segment) => {
            let size =
                SegmentSize::from_bytes(plain.len() as u64).map_err(|_| bad(format!("It has {} bytes, which is no segment's size", plain.len())))?;
            let checked = SegmentHeader::read(&plain, &name.to_string()).and_then(|header| header.check(segment, epoch.system_id, size));
            checked.map_err(|e| bad(format!("{e}. {}", e.detail())))?;
        }
        WalName::History(_) | WalName::BackupLabel(..) if plain.is_empty() => return Err(bad("It is empty".into())),
        WalName::History(_) | WalName::BackupLabel(..) => {}
    }
    let protection = writer.wal_protection(epoch).await?;
    match writer.keep_wal(epoch.system_id, &name, plain, &protection, compression).await {
        // Two servers that were promoted from one timeline archive it under one name, and the later one would never be rid of it. No
        // server is ever given one: all that counts of it begins the new timeline's first segment.
        Err(RepoError::Conflict { .. }) if matches!(name, WalName::Partial(_)) => Ok((None, identity)),
        kept => Ok((Some(kept?), identity)),
    }
}

/// The file's bytes, and whose they are: the same file before and after the reading, or an error.
fn read(path: &Path, buffers: &Buffers) -> std::io::Result<(Bytes, Identity)> {
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let mut plain = buffers.take();
    plain.reserve_exact(before.len() as usize);
    file.read_to_end(&mut plain)?;
    let identity = Identity::of(&before);
    // By its name, not by the open file: a file that was replaced meanwhile is another one, too.
    if Identity::of(&fs::metadata(path)?) != identity || plain.len() as u64 != before.len() {
        return Err(std::io::Error::other("it changed while it was read"));
    }
    Ok((Bytes::from_owner(plain), identity))
}

/// How to look ahead.
pub struct LookAhead<'a> {
    /// `pg_wal`.
    pub wal_dir: &'a Path,
    /// The file that somebody else stores just now.
    pub but: &'a WalName,
    /// Where each file that was stored is noted, so that the archiver's own call need not read it again.
    pub notes: &'a Notes,
    /// How many segments are on their way at once, memory permitting.
    pub jobs: usize,
    /// With which segments and histories are stored.
    pub compression: Compression,
}

/// Stores what the server has marked for its archiver, until nothing is left, and leaves a note of each.
/// The marks stay as they are: only the archiver itself ends a file's waiting. The first failure ends it, and
/// says nothing about that file: the archiver will ask for it, and be told.
pub async fn push_ahead(writer: &Writer, epoch: &Epoch, ahead: &LookAhead<'_>, clock: &dyn Clock) -> Result<(), CaptureError> {
    let LookAhead { wal_dir, notes, .. } = ahead;
    let buffers = &Buffers::default();
    let mut seen: HashSet<String> = HashSet::from([ahead.but.to_string()]);
    loop {
        let waiting =
            waiting_for_archive(wal_dir).map_err(|source| CaptureError::File { operation: "list", path: wal_dir.join("archive_status"), source })?;
        notes.tidy(|name| waiting.contains(name));
        let new: Vec<WalName> = waiting.into_iter().filter(|name| seen.insert(name.to_string())).collect();
        if new.is_empty() {
            return Ok(());
        }
        let (segments, small): (Vec<_>, Vec<_>) = new.into_iter().partition(|name| matches!(name, WalName::Segment(_)));
        // Histories before the segments of their timelines: whoever restores meanwhile finds the way.
        for name in &small {
            one(writer, epoch, ahead, name, buffers, clock).await?;
        }
        let largest = segments.first().and_then(|name| fs::metadata(wal_dir.join(name.to_string())).ok()).map_or(1, |meta| meta.len().max(1));
        let jobs = ahead.jobs.min((IN_MEMORY_BYTES / (2 * largest)) as usize).max(1);
        let each = |name: WalName| async move { one(writer, epoch, ahead, &name, buffers, clock).await };
        // In a window: none runs far ahead of one that does not end.
        stream::iter(segments.into_iter().map(each)).buffered(jobs).try_collect::<Vec<_>>().await?;
    }
}

async fn one(
    writer: &Writer,
    epoch: &Epoch,
    ahead: &LookAhead<'_>,
    name: &WalName,
    buffers: &Buffers,
    clock: &dyn Clock,
) -> Result<(), CaptureError> {
    let path = ahead.wal_dir.join(name.to_string());
    // The archiver may have been here first; what it has ended must not be noted.
    if !waits_for_archive(ahead.wal_dir, name) || ahead.notes.vouch(name, &path, clock.now()) {
        return Ok(());
    }
    let (_, identity) = store(writer, epoch, &path, ahead.compression, buffers).await?;
    ahead.notes.leave(name, &identity, clock.now()).map_err(|source| CaptureError::File { operation: "write a note of", path, source })
}
