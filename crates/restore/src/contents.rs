//! What a backup's manifest says in all: how much goes where, and what the cluster needs of its host. Read in full for every plan.

use crate::RestoreError;
use crate::paths::decode;
use futures::TryStreamExt;
use pg::HostNeeds;
use repo::{BackupDocument, ChunkRef, Entry, FileBody, ManifestReader, Reader, backup_folder, pack_path};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a file takes on disk is a multiple of this: the block of the usual filesystems.
const BLOCK_BYTES: u64 = 4096;

/// A backup's content, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// Lines of the manifest for files, configuration from outside the data directory included.
    pub files: u64,
    /// On disk, of everything that lies in the data directory itself.
    pub data_bytes: u64,
    /// On disk, of configuration from outside the data directory.
    pub config_bytes: u64,
    /// Where each file of that was.
    pub config: Vec<PathBuf>,
    /// In the manifest's order.
    pub tablespaces: Vec<TablespaceContents>,
    /// Where the data directory was.
    pub data_dir: Option<PathBuf>,
    /// Empty when the record of it could not be read.
    pub host: HostNeeds,
    /// Whether the record of the host could be read.
    pub is_host_known: bool,
}

/// What one tablespace holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TablespaceContents {
    /// `pg_tablespace.oid`.
    pub oid: u32,
    /// Where it was.
    pub location: PathBuf,
    /// On disk.
    pub bytes: u64,
}

/// Reads the manifest to its end, in bounded memory, and holds the packs that it names against a listing.
pub(crate) async fn read(reader: &Reader, backup: &BackupDocument) -> Result<Contents, RestoreError> {
    let mut manifest = ManifestReader::open_for(reader, backup).await.map_err(RestoreError::of_backup(backup.id))?;
    let header = manifest.header();
    let host: Option<HostNeeds> = serde_json::from_value(header.host.clone()).ok();
    let is_host_known = host.is_some() && header.host.get("databases").is_some();
    let data_dir = header.data_dir.as_ref().map(PathBuf::from);
    let mut contents = Contents { data_dir, host: host.unwrap_or_default(), is_host_known, ..Contents::default() };
    // By number: how far a pack must reach.
    let mut packs: BTreeMap<u32, u64> = BTreeMap::new();
    while let Some(entry) = manifest.next().await? {
        match &entry {
            Entry::Tablespace { oid, location } => {
                contents.tablespaces.push(TablespaceContents { oid: *oid, location: decode(location)?, bytes: 0 });
            }
            Entry::File(body) => {
                contents.add(body);
                note(&mut packs, body);
            }
            Entry::Config(body) => {
                contents.files += 1;
                contents.config_bytes += body.size.next_multiple_of(BLOCK_BYTES);
                contents.config.push(decode(&body.path)?);
                note(&mut packs, body);
            }
            Entry::Dir { .. } => contents.data_bytes += BLOCK_BYTES,
            Entry::Header(_) | Entry::End(_) => {}
        }
    }
    check_packs(reader, backup, packs).await?;
    Ok(contents)
}

impl Contents {
    fn add(&mut self, body: &FileBody) {
        self.files += 1;
        let bytes = body.size.next_multiple_of(BLOCK_BYTES);
        let oid = body.path.strip_prefix("pg_tblspc/").and_then(|rest| rest.split('/').next()).and_then(|oid| oid.parse::<u32>().ok());
        // A tablespace in place (allow_in_place_tablespaces) is a folder of the data directory.
        match oid.and_then(|oid| self.tablespaces.iter_mut().find(|tablespace| tablespace.oid == oid)) {
            Some(tablespace) => tablespace.bytes += bytes,
            None => self.data_bytes += bytes,
        }
    }

    /// On disk, all together.
    pub fn bytes(&self) -> u64 {
        self.data_bytes + self.config_bytes + self.tablespaces.iter().map(|tablespace| tablespace.bytes).sum::<u64>()
    }
}

fn note(packs: &mut BTreeMap<u32, u64>, body: &FileBody) {
    for ChunkRef(number, offset, stored, _) in &body.chunks {
        let end = packs.entry(*number).or_default();
        *end = (*end).max(offset + u64::from(*stored));
    }
}

/// Every pack must be listed, and be as long as what lies in it reaches.
async fn check_packs(reader: &Reader, backup: &BackupDocument, mut needed: BTreeMap<u32, u64>) -> Result<(), RestoreError> {
    let folder = format!("{}/data", backup_folder(backup.kind, backup.id));
    let mut listing = reader.store().list(&folder, None);
    while let Some(object) = listing.try_next().await.map_err(repo::RepoError::from)? {
        let number = object.path.name().parse::<u32>().ok().filter(|number| pack_path(backup.kind, backup.id, *number) == object.path);
        let Some((number, reach)) = number.and_then(|number| needed.remove_entry(&number)) else { continue };
        if object.bytes < reach {
            let why = format!("It has {} bytes, and what lies in it reaches to {reach}", object.bytes);
            return Err(RestoreError::Pack { backup: backup.id, pack: pack_path(backup.kind, backup.id, number).to_string(), why });
        }
    }
    match needed.keys().next() {
        None => Ok(()),
        Some(number) => {
            let why = match needed.len() {
                1 => "It is not in the repository".into(),
                count => format!("It is not in the repository, nor are {} more", count - 1),
            };
            Err(RestoreError::Pack { backup: backup.id, pack: pack_path(backup.kind, backup.id, *number).to_string(), why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_tablespace_is_counted_there_and_what_lies_in_place_in_the_data_directory() {
        let mut contents = Contents { tablespaces: vec![TablespaceContents { oid: 16400, ..Default::default() }], ..Default::default() };
        let file = |path: &str, size| FileBody { path: path.into(), mode: 0o600, mtime: 0, size, chunks: Vec::new() };
        for (path, size) in [("base/5/1", 8192), ("pg_tblspc/16400/PG_18_202506291/5/2", 100), ("pg_tblspc/16500/PG_18_202506291/5/3", 4096)] {
            contents.add(&file(path, size));
        }
        assert_eq!((contents.data_bytes, contents.tablespaces[0].bytes, contents.files), (8192 + 4096, 4096, 3));
        assert_eq!(contents.bytes(), 16384);
    }
}
