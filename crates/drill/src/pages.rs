//! Reads every page of every relation of the restored cluster while no server runs on it: its checksum, and the position of its last change.

use checks::Trail;
use pg::rules::{Fork, relation_file};
use pg::{BadPage, ControlFile, PAGE_SIZE, page_lsn, verify_pages};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use terms::Lsn;

/// Read at once: 1 MiB.
const SPAN_BYTES: usize = 1 << 20;
/// So many bad pages of one file are told, and of all files together.
const TOLD_OF_A_FILE: usize = 20;
const TOLD_MAX: usize = 500;

/// What the pages of the restored cluster were found to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PagesProof {
    /// Whether the cluster has page checksums; without them only positions were read.
    pub has_checksums: bool,
    /// Files of relations that were read, forks and the parts of large ones each counted.
    pub files: u64,
    /// Their pages of 8 KiB.
    pub pages: u64,
    /// Pages whose checksum does not match their bytes.
    pub bad: u64,
}

/// A bad page and the file it is in, relative to the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadBlock {
    pub(crate) file: String,
    pub(crate) page: BadPage,
}

/// Everything that the pass found.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) proof: PagesProof,
    /// The first bad pages, by file and block.
    pub(crate) bad: Vec<BadBlock>,
    /// Of each relation's rows or index, by its first file.
    pub(crate) trails: HashMap<String, Trail>,
}

/// One file that was read.
struct Seen {
    file: String,
    pages: u64,
    newest: Lsn,
    digest: u64,
    bad: Vec<BadPage>,
    bad_count: u64,
}

/// Reads all of it on `jobs` threads. Blocking. An error is the disk's, not the page's.
pub(crate) fn read_pages(data_dir: &Path, control: &ControlFile, jobs: usize) -> io::Result<Pages> {
    let files = relation_files(data_dir, control)?;
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut buffer = vec![0; SPAN_BYTES];
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            seen.push(read_file(data_dir, file, control, &mut buffer).map_err(|e| io::Error::new(e.kind(), format!("{file}: {e}")))?);
        }
        Ok(seen)
    };
    let parts: io::Result<Vec<Vec<Seen>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))).collect()
    });
    Ok(gather(parts?.into_iter().flatten(), control.data_checksums))
}

fn gather(seen: impl Iterator<Item = Seen>, has_checksums: bool) -> Pages {
    let mut found = Pages { proof: PagesProof { has_checksums, ..PagesProof::default() }, ..Pages::default() };
    // The files of one relation in their order: each is a gigabyte of it.
    let mut segments: BTreeMap<(String, u32), Seen> = BTreeMap::new();
    for mut one in seen {
        found.proof.files += 1;
        found.proof.pages += one.pages;
        found.proof.bad += one.bad_count;
        found.bad.extend(one.bad.drain(..).map(|page| BadBlock { file: one.file.clone(), page }));
        if let Some(file) = relation_file(Path::new(&one.file)).filter(|file| file.fork == Fork::Main) {
            let first = one.file.split_once('.').map_or(one.file.as_str(), |(first, _)| first).to_owned();
            segments.insert((first, file.segment), one);
        }
    }
    found.bad.sort_by(|one, other| (&one.file, one.page.block).cmp(&(&other.file, other.page.block)));
    found.bad.truncate(TOLD_MAX);
    let mut sums: HashMap<String, (u64, Lsn, u64)> = HashMap::new();
    for ((first, _), one) in segments {
        let (pages, newest, digest) = sums.entry(first).or_insert((0, Lsn::from_bytes(0), FNV_BEGIN));
        *pages += one.pages;
        *newest = (*newest).max(one.newest);
        *digest = fnv(*digest, one.digest);
    }
    let trail = |(pages, newest, digest)| Trail { pages, newest, digest: format!("{digest:016x}") };
    found.trails = sums.into_iter().map(|(first, sum)| (first, trail(sum))).collect();
    found
}

/// Every file of a relation, relative to the data directory; through the links of tablespaces.
fn relation_files(data_dir: &Path, control: &ControlFile) -> io::Result<Vec<String>> {
    let mut folders = vec![PathBuf::from("global")];
    let mut databases = vec![PathBuf::from("base")];
    for oid in names_in(&data_dir.join("pg_tblspc"))? {
        databases.push(Path::new("pg_tblspc").join(oid).join(control.tablespace_dir()));
    }
    for place in databases {
        // A tablespace without a table has no such folder.
        if data_dir.join(&place).is_dir() {
            folders.extend(names_in(&data_dir.join(&place))?.into_iter().map(|name| place.join(name)).filter(|path| data_dir.join(path).is_dir()));
        }
    }
    let mut files = Vec::new();
    for folder in folders {
        for name in names_in(&data_dir.join(&folder))? {
            let path = folder.join(name);
            // Temporary relations are nobody's any more.
            if relation_file(&path).is_some_and(|file| !file.is_temp) {
                files.extend(path.to_str().map(str::to_owned));
            }
        }
    }
    Ok(files)
}

fn names_in(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", folder.display()));
    fs::read_dir(folder).map_err(named)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

fn read_file(data_dir: &Path, file: &str, control: &ControlFile, buffer: &mut [u8]) -> io::Result<Seen> {
    let mut seen = Seen { file: file.to_owned(), pages: 0, newest: Lsn::from_bytes(0), digest: FNV_BEGIN, bad: Vec::new(), bad_count: 0 };
    let segment = relation_file(Path::new(file)).map_or(0, |file| file.segment);
    let first_block = segment.wrapping_mul(control.relation_segment_blocks);
    let mut source = File::open(data_dir.join(file))?;
    loop {
        let filled = fill(&mut source, buffer)?;
        // Part of a page at the end is of no relation yet: PostgreSQL counts whole pages (mdnblocks).
        let (pages, _) = buffer[..filled].as_chunks::<PAGE_SIZE>();
        if control.data_checksums {
            for bad in verify_pages(&buffer[..filled], first_block.wrapping_add(seen.pages as u32)) {
                seen.bad_count += 1;
                if seen.bad.len() < TOLD_OF_A_FILE {
                    seen.bad.push(bad);
                }
            }
        }
        for page in pages {
            let lsn = page_lsn(page);
            seen.newest = seen.newest.max(lsn);
            seen.digest = fnv(seen.digest, lsn.bytes());
        }
        seen.pages += pages.len() as u64;
        if filled < buffer.len() {
            return Ok(seen);
        }
    }
}

/// Fills the buffer, or as much of it as there is.
fn fill(source: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): it tells changed positions from unchanged ones, and nobody forges them.
const FNV_BEGIN: u64 = 0xCBF2_9CE4_8422_2325;

fn fnv(digest: u64, value: u64) -> u64 {
    value.to_le_bytes().iter().fold(digest, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(file: &str, newest: u64, digest: u64) -> Seen {
        Seen { file: file.into(), pages: 2, newest: Lsn::from_bytes(newest), digest, bad: Vec::new(), bad_count: 0 }
    }

    #[test]
    fn the_files_of_a_relation_are_one_trail_in_their_order() {
        let trails = |files: Vec<Seen>| gather(files.into_iter(), true).trails;
        let one = trails(vec![seen("base/5/16384", 10, 1), seen("base/5/16384.1", 20, 2), seen("base/5/16384_vm", 99, 3)]);
        let other = trails(vec![seen("base/5/16384.1", 20, 2), seen("base/5/16384", 10, 1)]);
        assert_eq!(one, other, "whichever thread came first");
        let trail = &one["base/5/16384"];
        assert_eq!((trail.pages, trail.newest), (4, Lsn::from_bytes(20)), "the visibility map does not count");
        assert_ne!(trail.digest, trails(vec![seen("base/5/16384", 10, 2), seen("base/5/16384.1", 20, 1)])["base/5/16384"].digest);
    }
}
