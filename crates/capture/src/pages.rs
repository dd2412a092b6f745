//! Verifies page checksums of files that a server is writing to.

use pg::{PAGE_SIZE, page_lsn, verify_page, verify_pages};
use std::fs::File;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use terms::Lsn;

/// How often a page that looks damaged is read again before it is believed: the server may be just writing it.
const READS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// Of more than so many only the positions are kept.
const KEPT: usize = 1000;

/// A page that did not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspect {
    /// As the manifest names the file.
    pub(crate) file: String,
    pub(crate) block: u32,
    pub(crate) lsn: Lsn,
}

/// Collects pages that do not verify and that replay would not repair for certain.
pub(crate) struct PageVerifier {
    start: Lsn,
    /// The position of each, and the first of them in full.
    found: Mutex<(Vec<Lsn>, Vec<Suspect>)>,
}

impl PageVerifier {
    /// For a backup that began at `start`.
    pub(crate) fn new(start: Lsn) -> Self {
        Self { start, found: Mutex::default() }
    }

    /// Verifies the whole pages of `bytes`, which was read from `offset` of `file`. `first_block` is the block number
    /// of the file's first page. A torn page is read again, in place.
    pub(crate) fn verify(&self, file: &File, name: &str, offset: u64, first_block: u32, bytes: &mut [u8]) {
        let first = first_block.wrapping_add((offset / PAGE_SIZE as u64) as u32);
        let whole = bytes.len() / PAGE_SIZE * PAGE_SIZE;
        let bad: Vec<u32> = verify_pages(&bytes[..whole], first).map(|page| page.block).collect();
        for block in bad {
            let at = (block.wrapping_sub(first)) as usize * PAGE_SIZE;
            let Some(page) = bytes[at..].first_chunk_mut::<PAGE_SIZE>() else { continue };
            self.judge(file, name, offset + at as u64, block, page);
        }
    }

    fn judge(&self, file: &File, name: &str, offset: u64, block: u32, page: &mut [u8; PAGE_SIZE]) {
        for _ in 0..READS {
            thread::sleep(PAUSE);
            match crate::reading::read_at(file, offset, page) {
                Ok(PAGE_SIZE) if verify_page(page, block).is_some() => {}
                // Whole now, or no longer part of the file; what was cut off, replay cuts off again.
                Ok(_) => return,
                Err(_) => break,
            }
        }
        let mut found = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lsn = page_lsn(page);
        found.0.push(lsn);
        if found.1.len() < KEPT {
            found.1.push(Suspect { file: name.to_owned(), block, lsn });
        }
    }

    /// Which pages are damaged, now that the backup's end is known: a page whose LSN lies within the backup is written
    /// anew by replay (full_page_writes), as in PostgreSQL's own base backup (src/backend/backup/basebackup.c, sendFile);
    /// an LSN beyond the backup's end is itself part of the damage. The count comes first, as not all may be kept.
    pub(crate) fn damaged(&self, stop: Lsn) -> (u64, Vec<Suspect>) {
        let found = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let repaired = |lsn: Lsn| lsn > self.start && lsn <= stop;
        let count = found.0.iter().filter(|lsn| !repaired(**lsn)).count() as u64;
        (count, found.1.iter().filter(|suspect| !repaired(suspect.lsn)).cloned().collect())
    }
}
