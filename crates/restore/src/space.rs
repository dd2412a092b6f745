//! Whether a restore fits where it is to go: what each filesystem must hold beside what lies there already. Pure but for the look.

use crate::files::TablespaceMap;
use crate::target::Target;
use crate::{RestoreError, RestorePlan};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a restored cluster needs beyond its files and the log that it replays: what the server writes in its first moments.
const MARGIN_BYTES: u64 = 16 << 20;
/// So many bytes lie in pg_wal while they are replayed, at most: the server recycles them at each restartpoint (`max_wal_size` in replay.rs,
/// and what comes in while one is made).
const BYTES_IN_PG_WAL: u64 = 5 << 30;
/// So many lie beside it, fetched ahead of being asked for (see `supply`), in so many bytes at most.
const SEGMENTS_AHEAD: u64 = 32;
const BYTES_AHEAD: u64 = 512 << 20;

/// Something that must find room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// It need not exist yet.
    pub place: PathBuf,
    /// What is needed beside what lies there now.
    pub bytes: u64,
    /// For people, such as `the data directory`.
    pub what: String,
}

/// A filesystem as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `st_dev`: two places with the same number are on one filesystem.
    pub device: u64,
    /// A path on it that exists.
    pub at: PathBuf,
    /// What a user other than root may still take, in bytes.
    pub free_bytes: u64,
}

/// What one filesystem must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Filesystem {
    /// A path on it that exists.
    pub at: PathBuf,
    /// The sum of what it must hold.
    pub needed_bytes: u64,
    /// What a user other than root may still take.
    pub free_bytes: u64,
    /// What is missing; none when it fits.
    pub missing_bytes: u64,
    /// In the order of the needs.
    pub holds: Vec<Held>,
}

/// A part of what it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// For people, such as `tablespace 16385`.
    pub what: String,
    /// What is needed beside what lies there now.
    pub bytes: u64,
}

/// What must find room where. What lies there now stays, renamed aside, and frees nothing; unless it is overwritten: then only what replay adds
/// is counted, as if what is there had the backup's size.
pub fn needs(plan: &RestorePlan, target: &Target, tablespaces: &TablespaceMap, overwrites: bool) -> Vec<Need> {
    let contents = &plan.contents;
    // A directory that is renamed makes place for a new one beside it, perhaps on another filesystem than its own content.
    let data = if target.is_occupied() && !overwrites { target.data_dir.parent().unwrap_or(&target.data_dir) } else { &target.data_dir };
    let segment_bytes = plan.backup.segment_bytes.bytes();
    let replayed = plan.replayed as u64;
    // What replay adds to the files is never more than the log that says so.
    let growth = |bytes: u64| (bytes / 10).min(replayed * segment_bytes);
    let files = |bytes: u64| growth(bytes) + if overwrites { 0 } else { bytes };
    let ahead = replayed.min((BYTES_AHEAD / segment_bytes).clamp(2, SEGMENTS_AHEAD));
    // What was fetched ahead is moved into pg_wal, not copied; the new timeline begins with two segments of its own.
    let wal = (replayed.min(BYTES_IN_PG_WAL / segment_bytes + ahead) + 2) * segment_bytes;
    let need = |place: &Path, bytes: u64, what: String| Need { place: place.to_owned(), bytes, what };
    let mut needs = vec![
        need(data, files(contents.data_bytes) + contents.config_bytes + MARGIN_BYTES, "the data directory".into()),
        need(data, wal, "WAL while it is replayed".into()),
    ];
    for tablespace in &contents.tablespaces {
        let place = tablespaces.place(tablespace.oid).unwrap_or_else(|| tablespace.location.clone());
        needs.push(need(&place, files(tablespace.bytes), format!("tablespace {}", tablespace.oid)));
    }
    needs
}

/// Puts together what goes to the same filesystem.
pub fn group(needs: &[Need], mut look: impl FnMut(&Path) -> Result<Disk, RestoreError>) -> Result<Vec<Filesystem>, RestoreError> {
    let mut found: Vec<(u64, Filesystem)> = Vec::new();
    for need in needs {
        let disk = look(&need.place)?;
        let at = match found.iter().position(|(device, _)| *device == disk.device) {
            Some(at) => at,
            None => {
                let empty = Filesystem { at: disk.at, needed_bytes: 0, free_bytes: disk.free_bytes, missing_bytes: 0, holds: Vec::new() };
                found.push((disk.device, empty));
                found.len() - 1
            }
        };
        let filesystem = &mut found[at].1;
        filesystem.needed_bytes += need.bytes;
        filesystem.missing_bytes = filesystem.needed_bytes.saturating_sub(filesystem.free_bytes);
        filesystem.holds.push(Held { what: need.what.clone(), bytes: need.bytes });
    }
    Ok(found.into_iter().map(|(_, filesystem)| filesystem).collect())
}

/// The filesystem that a path is on, or will be on once it is made.
pub fn disk_of(place: &Path) -> Result<Disk, RestoreError> {
    let there = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let device = std::fs::metadata(there).map_err(RestoreError::file("look at", there))?.dev();
    let disk = rustix::fs::statvfs(there).map_err(|e| RestoreError::file("look at", there)(e.into()))?;
    Ok(Disk { device, at: there.to_owned(), free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize) })
}

/// A restore that does not fit is refused before anything is touched.
pub fn refuse_cramped(filesystems: &[Filesystem], target: &Target) -> Result<(), RestoreError> {
    match filesystems.iter().find(|filesystem| filesystem.missing_bytes > 0) {
        None => Ok(()),
        Some(cramped) => {
            let kept = target.is_occupied().then(|| target.data_dir.clone());
            Err(RestoreError::NoRoom { at: cramped.at.clone(), needed: cramped.needed_bytes, free: cramped.free_bytes, kept })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_one_filesystem_is_added_up_and_what_is_missing_is_told_of_each() {
        let need = |place: &str, bytes, what: &str| Need { place: place.into(), bytes, what: what.into() };
        let needs = [need("/srv/data", 60, "the data directory"), need("/fast/t1", 30, "tablespace 1"), need("/srv/t2", 50, "tablespace 2")];
        let look = |place: &Path| {
            let fast = place.starts_with("/fast");
            Ok(Disk { device: u64::from(fast), at: if fast { "/fast" } else { "/srv" }.into(), free_bytes: if fast { 30 } else { 100 } })
        };
        let found = group(&needs, look).unwrap();
        let told: Vec<_> = found.iter().map(|f| (f.at.to_str().unwrap(), f.needed_bytes, f.missing_bytes, f.holds.len())).collect();
        assert_eq!(told, [("/srv", 110, 10, 2), ("/fast", 30, 0, 1)]);
    }

    #[test]
    fn a_place_that_is_not_made_yet_is_on_the_filesystem_of_the_folder_around_it() {
        let home = tempfile::tempdir().unwrap();
        let far = disk_of(&home.path().join("not/made/yet")).unwrap();
        assert_eq!((far.device, far.at.as_path()), (disk_of(home.path()).unwrap().device, home.path()));
        assert!(far.free_bytes > 0);
    }
}
