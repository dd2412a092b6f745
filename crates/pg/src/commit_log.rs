//! Reads the commit log of a stopped cluster, `pg_xact`: which transactions came to an end, and which to a good one.

use crate::control::ControlFile;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Two bits a transaction (`CLOG_XACTS_PER_BYTE`, src/backend/access/transam/clog.c).
const XACTS_PER_BYTE: u64 = 4;
/// Transactions in a file: 32 pages of 8 KiB (`SLRU_PAGES_PER_SEGMENT`, src/include/access/slru.h).
const XACTS_PER_FILE: u64 = 32 * 8192 * XACTS_PER_BYTE;
/// `FirstNormalTransactionId`; those below are PostgreSQL's own.
const FIRST_XID: u64 = 3;
/// `TRANSACTION_STATUS_IN_PROGRESS` and `TRANSACTION_STATUS_ABORTED` (src/include/access/clog.h).
const IN_PROGRESS: u8 = 0;
const ABORTED: u8 = 2;

/// The commit log of a data directory whose server is stopped. Transaction ids bear their epoch in the high half, as `xid8` does.
#[derive(Debug)]
pub struct CommitLog {
    dir: PathBuf,
    oldest: u64,
    next: u64,
    files: HashMap<u32, Vec<u8>>,
}

impl CommitLog {
    /// Of this data directory with this control file, which the server wrote when it stopped.
    pub fn of(data_dir: &Path, control: &ControlFile) -> Self {
        let next = control.next_xid;
        // No row is older than half the circle of ids.
        let age = u64::from((next as u32).wrapping_sub(control.oldest_xid));
        Self { dir: data_dir.join("pg_xact"), oldest: next.saturating_sub(age).max(FIRST_XID), next, files: HashMap::new() }
    }

    /// The transactions that had begun and not ended when the server's log did, those that a crash ended among them; `None` when there are
    /// more than `at_most`. Should the same cluster go on elsewhere, they may still commit there.
    pub fn open_ended(&mut self, at_most: usize) -> io::Result<Option<Vec<u64>>> {
        let mut found = Vec::new();
        for xid in self.oldest..self.next {
            if is_normal(xid) && self.status(xid)? == IN_PROGRESS {
                found.push(xid);
                if found.len() > at_most {
                    return Ok(None);
                }
            }
        }
        Ok(Some(found))
    }

    /// Whether this transaction can have come to a good end: it committed, or is too old for the log to say.
    pub fn may_have_committed(&mut self, xid: u64) -> io::Result<bool> {
        if xid < self.oldest || xid >= self.next {
            return Ok(true);
        }
        Ok(!matches!(self.status(xid)?, IN_PROGRESS | ABORTED))
    }

    fn status(&mut self, xid: u64) -> io::Result<u8> {
        let xid = u64::from(xid as u32);
        let number = (xid / XACTS_PER_FILE) as u32;
        let at = xid % XACTS_PER_FILE;
        if !self.files.contains_key(&number) {
            // One at a time is enough for a walk from old to new.
            self.files.clear();
            self.files.insert(number, fs::read(self.dir.join(format!("{number:04X}")))?);
        }
        let byte = self.files.get(&number).and_then(|bytes| bytes.get((at / XACTS_PER_BYTE) as usize));
        // A page that was never written: nothing on it has ended.
        Ok(byte.map_or(IN_PROGRESS, |byte| byte >> (2 * (at % XACTS_PER_BYTE)) & 3))
    }
}

/// Ids below three are never given to a transaction, in whatever epoch.
fn is_normal(xid: u64) -> bool {
    u64::from(xid as u32) >= FIRST_XID
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path, oldest: u64, next: u64) -> CommitLog {
        CommitLog { dir: dir.join("pg_xact"), oldest, next, files: HashMap::new() }
    }

    #[test]
    fn what_has_not_ended_is_found_and_what_committed_later_is_known() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_xact")).unwrap();
        let file = dir.path().join("pg_xact/0000");
        // 4 committed, 5 aborted, 6 open, 7 a committed part of another, 8 open.
        fs::write(&file, [0b0000_0000, 0b11_00_10_01, 0]).unwrap();
        assert_eq!(log(dir.path(), 4, 9).open_ended(9).unwrap(), Some(vec![6, 8]));
        assert_eq!(log(dir.path(), 4, 9).open_ended(1).unwrap(), None, "too many to name");
        fs::write(&file, [0b0000_0000, 0b11_01_10_01, 0]).unwrap();
        let mut later = log(dir.path(), 5, 9);
        let committed: Vec<_> = [4, 5, 6, 8].into_iter().filter(|xid| later.may_have_committed(*xid).unwrap()).collect();
        assert_eq!(committed, [4, 6], "four is too old to be known");
    }
}
