//! Proves a snapshot of packages: its list line by line, and with it the packs that are its own.
//!
//! What it refers to in packs of earlier snapshots is proven with those: they are proven as long as a listed one refers to them.

use super::Found;
use super::packs::{Packs, Prover, Tell, Told};
use repo::{Reader, RepoError, SnapshotDocument, SnapshotReader, manifest_path};
use std::collections::BTreeSet;

/// Goes through a snapshot's own packs in order, as [`super::backup::prove`] does through a backup's.
pub(super) async fn prove(reader: &Reader, snapshot: &SnapshotDocument, packs: Packs, tell: &mut Tell<'_>) -> Result<bool, RepoError> {
    let path = manifest_path(snapshot.kind, snapshot.id);
    let bytes = reader.store().info(&path).await?.map_or(0, |info| info.bytes);
    let mut prover = Prover::new(reader, snapshot.kind, snapshot.id, snapshot.key, packs).await?;
    let mut list = match SnapshotReader::open(reader, snapshot).await {
        Ok(list) => list,
        Err(e) => return Ok(tell(Told::Bad(Found::of(path.to_string(), e)?, 0))),
    };
    let chunk_bytes = u64::from(list.header().chunk_bytes);
    let mut needs = BTreeSet::new();
    loop {
        match list.next().await {
            Ok(Some(object)) => match object.stored_in.filter(|id| *id != snapshot.id) {
                Some(id) => needs.extend(Some(id).filter(|_| !object.chunks.is_empty())),
                None => {
                    if !prover.file(&object.key, object.size, chunk_bytes, object.chunks, tell).await? {
                        return Ok(false);
                    }
                }
            },
            Ok(None) => break,
            Err(e) => return Ok(tell(Told::Bad(Found::of(path.to_string(), e)?, 0))),
        }
    }
    if !prover.end(tell).await? {
        return Ok(false);
    }
    // Retention keeps what backup.json says that it needs: the list, which is sealed, must not refer to more.
    if prover.seen() != snapshot.packs || !needs.is_subset(&snapshot.needs) {
        let more: Vec<String> = needs.difference(&snapshot.needs).map(ToString::to_string).collect();
        let also = if more.is_empty() { String::new() } else { format!("; of {}, which it refers to, that says nothing", more.join(", ")) };
        let why = format!("it speaks of {} packs, backup.json of {}{also}", prover.seen(), snapshot.packs);
        return Ok(tell(Told::Bad(Found::of(path.to_string(), RepoError::Document { path: path.to_string(), why })?, 0)));
    }
    Ok(match packs {
        Packs::After(_) => tell(Told::Well(path, bytes)),
        Packs::Only(_) => true,
    })
}
