//! The source `stream`: a base backup as the server sends it, for hosts that cannot read the data directory.

use crate::CaptureError;
use crate::pipeline::{Content, FileFacts, FileFeed, Pipeline};
use pg::rules::{Fork, Verdict, judge, relation_file};
use pg::{BaseBackup, BaseBackupEnd, Item, TarKind};
use repo::{Entry, FileBody};
use seal::CHUNK_BYTES;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

/// The file that is arriving.
struct Arriving {
    feed: FileFeed,
    pending: Vec<u8>,
}

/// Feeds all that the server sends. Blocking: runs on a thread of its own and waits for the network through `runtime`.
pub(crate) fn copy_stream(pipeline: &mut Pipeline, mut backup: BaseBackup, runtime: &Handle) -> Result<BaseBackupEnd, CaptureError> {
    for tablespace in backup.tablespaces() {
        if let Some(oid) = tablespace.oid {
            pipeline.line(Entry::Tablespace { oid, location: crate::local::manifest_name(&tablespace.location) })?;
        }
    }
    let mut arriving: Option<Arriving> = None;
    while let Some(item) = runtime.block_on(backup.next())? {
        match item {
            Item::Entry(entry) => {
                flush(pipeline, arriving.take())?;
                let path = match entry.tablespace {
                    Some(oid) => PathBuf::from(format!("pg_tblspc/{oid}")).join(&entry.path),
                    None => PathBuf::from(entry.path.trim_start_matches("./")),
                };
                arriving = begin(pipeline, &path, &entry)?;
            }
            Item::Data(bytes) => {
                let Some(Arriving { feed, pending }) = &mut arriving else { continue };
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - pending.len()));
                    pending.extend_from_slice(now);
                    rest = later;
                    if pending.len() == CHUNK_BYTES {
                        let full = std::mem::replace(pending, Vec::with_capacity(CHUNK_BYTES.min(rest.len())));
                        pipeline.chunk(feed, Content::Arrived(full))?;
                    }
                }
            }
        }
    }
    flush(pipeline, arriving)?;
    Ok(runtime.block_on(backup.finish())?)
}

fn flush(pipeline: &mut Pipeline, arriving: Option<Arriving>) -> Result<(), CaptureError> {
    match arriving {
        Some(Arriving { mut feed, pending }) if !pending.is_empty() => pipeline.chunk(&mut feed, Content::Arrived(pending)),
        _ => Ok(()),
    }
}

/// Begins a line for what arrives. The server has left out what a base backup leaves out; what it adds for plain-format
/// tools (tablespace_map: the manifest names the tablespaces) is left out here.
fn begin(pipeline: &mut Pipeline, path: &Path, entry: &pg::Entry) -> Result<Option<Arriving>, CaptureError> {
    let name = crate::local::manifest_name(path);
    match &entry.kind {
        TarKind::Dir => {
            // Roots are there already: of the cluster by itself, of a tablespace by its own line.
            let is_root = entry.path.trim_matches(['.', '/']).is_empty();
            if !is_root {
                pipeline.line(Entry::Dir { path: name, mode: entry.mode })?;
            }
            Ok(None)
        }
        TarKind::Symlink { .. } => Ok(None),
        TarKind::File { size } => {
            let kept_by_server = ["backup_label"];
            let version_dir = path.iter().nth(2).and_then(|p| p.to_str()).unwrap_or_default();
            if judge(path, version_dir) != Verdict::Copy && !kept_by_server.iter().any(|k| path == Path::new(k)) {
                return Ok(None);
            }
            debug_assert!(relation_file(path).is_none_or(|r| r.fork == Fork::Init || !r.is_temp));
            let body = FileBody { path: name.clone(), mode: entry.mode, mtime: entry.mtime, size: 0, chunks: Vec::new() };
            let count = size.div_ceil(CHUNK_BYTES as u64) as usize;
            let facts = FileFacts { path: path.to_owned(), name, first_block: None, pad: false };
            let feed = pipeline.begin_file(facts, Entry::File(body), count)?;
            Ok(Some(Arriving { feed, pending: Vec::with_capacity((*size).min(CHUNK_BYTES as u64) as usize) }))
        }
    }
}
