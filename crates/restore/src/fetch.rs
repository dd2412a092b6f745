//! `restore_command` by hand: one WAL file from the repository, or a proof that it is not there.

use crate::RestoreError;
use crate::target::create_anew;
use pg::Owner;
use repo::{Reader, Stored};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};
use terms::{Lsn, SegmentSize, SystemId, Timeline, WalName};

/// How a fetch ended; how that becomes an exit code is the front door's matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The file is where it was wanted.
    Delivered,
    /// Proven absent: the repository answered that it has neither this file nor a later one of its timeline, or, of a history that a search
    /// for the newest timeline asks for, nothing of this timeline or a later one.
    Absent,
}

/// Which timeline the server that asks is to follow: whether a history that is missing may deceive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// The newest. It asks for the history of one number after the other, and the first that is absent is the end of them to it
    /// (`findNewestTimeLine`, src/backend/access/transam/timeline.c): behind a number that is missing it would see nothing, and be promoted.
    Newest,
    /// The one it was told. A history that is absent then only is a number that is free for its new timeline, or the way to an ancestor
    /// that it does not need. Standbys count here as well: they ask again.
    Told,
}

/// Fetches `name` to `to`. A hole (a later segment is there, or a later timeline for a server that seeks the newest), a store that fails,
/// and bytes that do not open are errors.
pub async fn fetch(reader: &Reader, system_id: SystemId, name: &WalName, to: &Path, follows: Follows) -> Result<Fetched, RestoreError> {
    // PostgreSQL's own `.partial` is stored for people to look at; a server is never given one.
    if matches!(name, WalName::Partial(_)) {
        return Ok(Fetched::Absent);
    }
    let deliver = |bytes: &[u8]| write_whole(to, bytes).map(|()| Fetched::Delivered).map_err(RestoreError::file("write", to));
    if let Some(bytes) = reader.fetch_wal(system_id, name).await? {
        return deliver(&bytes);
    }
    // It may be stored while the questions below are asked.
    let unless_stored_meanwhile = async |why: RestoreError| match reader.fetch_wal(system_id, name).await? {
        Some(bytes) => deliver(&bytes),
        None => Err(why),
    };
    if let WalName::History(timeline) = name {
        let stored = match follows {
            // The first timeline has no history.
            Follows::Newest if *timeline != Timeline::FIRST => reader.timelines_from(system_id, *timeline).await?,
            _ => Vec::new(),
        };
        return match stored.is_empty() {
            true => Ok(Fetched::Absent),
            false => unless_stored_meanwhile(RestoreError::Skipped { name: name.to_string(), stored }).await,
        };
    }
    let once = once_stored(reader, system_id, name).await?;
    let stored = in_pieces(reader, system_id, name).await?;
    if let Some((Stored::Whole(bytes), _)) = stored {
        return deliver(&bytes);
    }
    if let Some(why) = was_longer(reader, system_id, name, once, stored.as_ref()).await? {
        return unless_stored_meanwhile(RestoreError::Fetch { name: name.to_string(), why }).await;
    }
    match (reader.wal_after(system_id, name).await?, stored) {
        // The end of the log: the server reads as far as it goes.
        (None, Some((beginning, size))) => beginning.padded(size).map_or(Ok(Fetched::Absent), |bytes| deliver(&bytes)),
        (None, None) => Ok(Fetched::Absent),
        (Some(later), beginning) => {
            let how = if beginning.is_some() { "Only its beginning is" } else { "It is not" };
            let why = format!("{how} in the repository, but {later} is: this is a hole, not the end of the log.");
            unless_stored_meanwhile(RestoreError::Fetch { name: name.to_string(), why }).await
        }
    }
}

/// How far a segment was stored once, as a later piece of it or the coverage mark tells. Asked before looking at what is there: a
/// receiver at work adds to both.
async fn once_stored(reader: &Reader, system_id: SystemId, name: &WalName) -> Result<Option<Lsn>, RestoreError> {
    let WalName::Segment(segment) = name else { return Ok(None) };
    // A mark speaks of its own timeline, which nobody had left when it was written.
    let mark = reader.coverage(system_id).await?.filter(|c| c.timeline == segment.timeline()).map(|c| c.lsn.max(c.stored));
    Ok(reader.pieces(system_id, *segment).await?.iter().map(|p| p.start).chain(mark).max())
}

/// Why what is there of a segment cannot be the end of the log.
async fn was_longer(
    reader: &Reader,
    system_id: SystemId,
    name: &WalName,
    once: Option<Lsn>,
    stored: Option<&(Stored, SegmentSize)>,
) -> Result<Option<String>, RestoreError> {
    let (WalName::Segment(segment), Some(once)) = (name, once) else { return Ok(None) };
    let size = match stored {
        Some((_, size)) => Some(*size),
        None => segment_size(reader, system_id).await?,
    };
    let Some(size) = size else {
        let pieces = reader.pieces(system_id, *segment).await?;
        return Ok((!pieces.is_empty()).then(|| "Pieces of it are stored, but no backup tells how long its segments are.".into()));
    };
    let start = segment.start(size);
    let reach = match stored {
        Some((Stored::Whole(bytes) | Stored::Prefix(bytes), _)) => start.plus(bytes.len() as u64),
        _ => start,
    };
    Ok((once > reach)
        .then(|| format!("It is stored up to {reach} only, but WAL was stored up to {once} once: this is a hole, not the end of the log.")))
}

async fn segment_size(reader: &Reader, system_id: SystemId) -> Result<Option<SegmentSize>, RestoreError> {
    // Any backup of the cluster tells it: a damaged one must not stop a recovery.
    let (backups, _) = reader.backups_and_damage().await?;
    Ok(backups.iter().rev().find(|b| b.system_id == system_id).map(|b| b.segment_bytes))
}

/// What pieces make up of a segment that is not stored whole.
async fn in_pieces(reader: &Reader, system_id: SystemId, name: &WalName) -> Result<Option<(Stored, SegmentSize)>, RestoreError> {
    let WalName::Segment(segment) = name else { return Ok(None) };
    if reader.pieces(system_id, *segment).await?.is_empty() {
        return Ok(None);
    }
    // Names do not tell how long a segment is; what was backed up does.
    let Some(size) = segment_size(reader, system_id).await? else { return Ok(None) };
    let stored = reader.fetch_segment(system_id, *segment, size).await?;
    Ok((stored != Stored::Nothing).then_some((stored, size)))
}

/// Written under another name first: the server must never see half a segment.
fn write_whole(to: &Path, bytes: &[u8]) -> io::Result<()> {
    let half = half_of(to);
    fs::write(&half, bytes)?;
    fs::rename(&half, to)
}

/// [`write_whole`], on disk before it gets its name. The server makes a fetched segment durable before it replays it
/// (`KeepFileRestoredFromArchive`, src/backend/access/transam/xlogarchive.c): it then has nothing to wait for. The folder may be another's,
/// whose links root must not follow.
pub(crate) fn write_durably(to: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let half = half_of(to);
    let mut file = create_anew(&half, 0o600)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&half, to)
}

fn half_of(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".bowline");
    name.into()
}

/// Moves a file, also to another filesystem.
pub(crate) fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let half = half_of(to);
            fs::copy(from, &half)?;
            fs::rename(&half, to)?;
            fs::remove_file(from)
        }
        other => other,
    }
}
