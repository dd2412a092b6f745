//! Proves a backup: its manifest line by line, and with it its packs.

use super::Found;
use super::packs::{Packs, Prover, Tell, Told};
use repo::{BackupDocument, Entry, ManifestReader, Reader, RepoError, manifest_path};

/// Goes through a backup's packs in order; `tell` ends it by saying false. Whether it came to the end. What is damaged is told of; what
/// cannot be read just now is the error.
pub(super) async fn prove(reader: &Reader, backup: &BackupDocument, packs: Packs, tell: &mut Tell<'_>) -> Result<bool, RepoError> {
    let path = manifest_path(backup.kind, backup.id);
    let mut prover = Prover::new(reader, backup.kind, backup.id, backup.key, packs).await?;
    let mut manifest = match ManifestReader::open_for(reader, backup).await {
        Ok(manifest) => manifest,
        Err(e) => return Ok(tell(Told::Bad(Found::of(path.to_string(), e)?, 0))),
    };
    let chunk_bytes = u64::from(manifest.header().chunk_bytes);
    loop {
        match manifest.next().await {
            Ok(Some(Entry::File(body) | Entry::Config(body))) => {
                if !prover.file(&body.path, body.size, chunk_bytes, body.chunks, tell).await? {
                    return Ok(false);
                }
            }
            Ok(Some(Entry::End(end))) if end.packs != backup.packs || prover.seen() != end.packs => {
                let why = format!("it speaks of {} packs and says {}, backup.json says {}", prover.seen(), end.packs, backup.packs);
                return Ok(tell(Told::Bad(Found::of(path.to_string(), RepoError::Document { path: path.to_string(), why })?, 0)));
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(e) => return Ok(tell(Told::Bad(Found::of(path.to_string(), e)?, 0))),
        }
    }
    if !prover.end(tell).await? {
        return Ok(false);
    }
    Ok(match packs {
        // The manifest comes last: then all of it was read.
        Packs::After(_) => tell(Told::Well(path, backup.manifest_bytes)),
        Packs::Only(_) => true,
    })
}
