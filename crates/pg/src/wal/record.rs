//! What a WAL record is and what the few kinds that matter to recovery say.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use terms::{Lsn, Timeline, Timestamp};

/// `SizeOfXLogRecord`, src/include/access/xlogrecord.h.
pub(super) const RECORD_HEADER: usize = 24;
/// Nothing longer is ever written (`XLogRecordMaxSize`).
pub(super) const RECORD_SIZE_MAX: u32 = 1020 << 20;

/// Resource managers, by their place in src/include/access/rmgrlist.h.
const RMGR_XLOG: u8 = 0;
const RMGR_XACT: u8 = 1;
const RMGR_TABLESPACE: u8 = 5;
const RMGR_BUILTIN_MAX: u8 = 21;
const RMGR_CUSTOM_MIN: u8 = 128;

/// One valid record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub start: Lsn,
    /// Where the next one may begin: just after it, aligned; after a switch the segment's end.
    pub end: Lsn,
    /// Its length in bytes (`xl_tot_len`), without page headers and alignment.
    pub length: u32,
    /// The transaction it belongs to; zero when none.
    pub xid: u32,
    /// The resource manager that wrote it.
    pub rmgr: u8,
    /// The resource manager's flags (`xl_info`).
    pub info: u8,
    /// What it means for recovery.
    pub kind: RecordKind,
}

/// The kinds of record that decide where recovery may stop and what it has reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// A transaction was committed.
    Commit {
        /// When, by the server's clock.
        at: Timestamp,
    },
    /// A transaction was rolled back.
    Abort {
        /// When, by the server's clock.
        at: Timestamp,
    },
    /// A prepared transaction was committed.
    CommitPrepared {
        /// When, by the server's clock.
        at: Timestamp,
        /// Its own number, not the session's; `None` when it lies behind what is kept of so long a record.
        xid: Option<u32>,
    },
    /// A prepared transaction was rolled back.
    AbortPrepared {
        /// When, by the server's clock.
        at: Timestamp,
        /// As that of a commit.
        xid: Option<u32>,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        /// At most 63 bytes; other restore points may have the same.
        name: String,
        /// When, by the server's clock.
        at: Timestamp,
    },
    /// The rest of the segment is unused.
    Switch,
    /// A checkpoint; replay from it begins at `redo`.
    Checkpoint {
        /// It is the last record of a server that was shut down; then `redo` is where it begins itself.
        shutdown: bool,
        /// At or before the record's own beginning.
        redo: Lsn,
        /// The one that the server writes after it.
        timeline: Timeline,
        /// The one before, when the checkpoint began a new one; else the same.
        previous_timeline: Timeline,
        /// When it was begun, by the server's clock; whole seconds.
        at: Timestamp,
    },
    /// A server was promoted and writes on `timeline` from here.
    EndOfRecovery {
        /// The new one.
        timeline: Timeline,
        /// The one that was left.
        previous_timeline: Timeline,
        /// When recovery ended, by the server's clock.
        at: Timestamp,
    },
    /// The backup whose redo position is `start` is consistent from here.
    BackupEnd {
        /// As `backup_label` names it (`START WAL LOCATION`).
        start: Lsn,
    },
    /// The record that began at `overwritten` was never finished and does not count.
    OverwriteContrecord {
        /// A position before this record.
        overwritten: Lsn,
    },
    /// A tablespace was created; its replay makes the link to this directory whatever the link was before, and the server's files lie
    /// there from then on (`create_tablespace_directories`, src/backend/commands/tablespace.c).
    TablespaceCreated {
        /// `pg_tablespace.oid`.
        oid: u32,
        /// Absolute; empty for one in place (`allow_in_place_tablespaces`).
        location: PathBuf,
    },
    /// Anything else.
    Other,
}

impl RecordKind {
    /// When a transaction ended, if the record ends one.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::Commit { at } | Self::Abort { at } | Self::CommitPrepared { at, .. } | Self::AbortPrepared { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// Which transaction a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// None.
    Nothing,
    /// This one, as `recoveryStopsAfter` takes it (src/backend/access/transam/xlogrecovery.c): of a prepared transaction its own
    /// number, not that of the session which ends it. A subtransaction that is rolled back alone has such a record, too.
    Xid(u32),
    /// A prepared one whose number was not kept.
    Unknown,
}

impl Record {
    /// Which transaction it ends.
    pub fn ended(&self) -> Ended {
        match &self.kind {
            RecordKind::Commit { .. } | RecordKind::Abort { .. } => Ended::Xid(self.xid),
            RecordKind::CommitPrepared { xid, .. } | RecordKind::AbortPrepared { xid, .. } => xid.map_or(Ended::Unknown, Ended::Xid),
            _ => Ended::Nothing,
        }
    }
}

/// The fixed part of a record (`XLogRecord`, src/include/access/xlogrecord.h).
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub(super) length: u32,
    pub(super) xid: u32,
    pub(super) previous: u64,
    pub(super) info: u8,
    pub(super) rmgr: u8,
    pub(super) crc: u32,
}

impl RecordHeader {
    pub(super) fn read(bytes: &[u8; RECORD_HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            length: word(0),
            xid: word(4),
            previous: u64::from(word(8)) | u64::from(word(12)) << 32,
            info: bytes[16],
            rmgr: bytes[17],
            crc: word(20),
        }
    }
    /// The parts of `ValidXLogRecordHeader` (src/backend/access/transam/xlogreader.c) that need no context.
    pub(super) fn is_possible(&self) -> bool {
        (RECORD_HEADER as u32..=RECORD_SIZE_MAX).contains(&self.length) && (self.rmgr <= RMGR_BUILTIN_MAX || self.rmgr >= RMGR_CUSTOM_MIN)
    }
    /// Whether what counts in it may lie far behind: it ends a prepared transaction, whose number lies behind parts of any length, or
    /// holds a path.
    pub(super) fn is_needed_whole(&self) -> bool {
        matches!((self.rmgr, self.opcode()), (RMGR_XACT, 0x30 | 0x40)) || self.creates_tablespace()
    }
    /// `XLOG_TBLSPC_CREATE`, src/include/commands/tablespace.h.
    pub(super) fn creates_tablespace(&self) -> bool {
        (self.rmgr, self.opcode()) == (RMGR_TABLESPACE, 0x00)
    }
    /// Whether [`decode`] has something to find in it.
    pub(super) fn matters(&self) -> bool {
        matches!((self.rmgr, self.opcode()), (RMGR_XLOG, 0x00 | 0x10 | 0x50 | 0x70 | 0x90 | 0xD0) | (RMGR_XACT, 0x00 | 0x20 | 0x30 | 0x40))
            || self.creates_tablespace()
    }
    pub(super) fn is_switch(&self) -> bool {
        self.rmgr == RMGR_XLOG && self.opcode() == 0x40
    }
    /// The high bits are the resource manager's; of those a transaction's top bit is a flag (`XLOG_XACT_OPMASK`).
    fn opcode(&self) -> u8 {
        if self.rmgr == RMGR_XACT { self.info & 0x70 } else { self.info & 0xF0 }
    }
}

/// What the record means; `head` is its beginning after the fixed header. `None` when the record's own bytes do not
/// hold together although its CRC is right, which ends the log for PostgreSQL too.
pub(super) fn decode(header: &RecordHeader, head: &[u8], major: u32) -> Option<RecordKind> {
    if header.is_switch() {
        return Some(RecordKind::Switch);
    }
    if !header.matters() {
        return Some(RecordKind::Other);
    }
    let data = Data { bytes: main_data(header, head)? };
    Some(match (header.rmgr, header.opcode()) {
        (RMGR_TABLESPACE, _) => RecordKind::TablespaceCreated { oid: data.u32(0)?, location: data.path(4)? },
        (RMGR_XACT, 0x00) => RecordKind::Commit { at: data.time(0)? },
        (RMGR_XACT, 0x20) => RecordKind::Abort { at: data.time(0)? },
        (RMGR_XACT, 0x30) => RecordKind::CommitPrepared { at: data.time(0)?, xid: data.prepared_xid(header, major) },
        (RMGR_XACT, _) => RecordKind::AbortPrepared { at: data.time(0)?, xid: data.prepared_xid(header, major) },
        // CheckPoint, src/include/catalog/pg_control.h: its time is in seconds since 1970.
        (_, opcode @ (0x00 | 0x10)) => RecordKind::Checkpoint {
            shutdown: opcode == 0x00,
            redo: Lsn::from_bytes(data.u64(0)?),
            timeline: data.timeline(8)?,
            previous_timeline: data.timeline(12)?,
            at: Timestamp::from_unix_micros((data.u64(64)? as i64).saturating_mul(1_000_000)),
        },
        (_, 0x50) => RecordKind::BackupEnd { start: Lsn::from_bytes(data.u64(0)?) },
        (_, 0x70) => RecordKind::RestorePoint { at: data.time(0)?, name: data.name(8)? },
        (_, 0x90) => RecordKind::EndOfRecovery { at: data.time(0)?, timeline: data.timeline(8)?, previous_timeline: data.timeline(12)? },
        _ => RecordKind::OverwriteContrecord { overwritten: Lsn::from_bytes(data.u64(0)?) },
    })
}

/// Goes over the data headers to the main data, which comes last (`DecodeXLogRecord`). The records that matter have
/// no block references, only perhaps an origin and a top-level transaction, so anything else is out of place here.
fn main_data<'a>(header: &RecordHeader, head: &'a [u8]) -> Option<&'a [u8]> {
    const ORIGIN: u8 = 253;
    const TOPLEVEL_XID: u8 = 252;
    const DATA_LONG: u8 = 254;
    const DATA_SHORT: u8 = 255;
    let mut rest = head;
    loop {
        let (&id, after) = rest.split_first()?;
        let (length, data) = match id {
            ORIGIN => {
                rest = after.get(2..)?;
                continue;
            }
            TOPLEVEL_XID => {
                rest = after.get(4..)?;
                continue;
            }
            DATA_SHORT => {
                let (&length, data) = after.split_first()?;
                (usize::from(length), data)
            }
            DATA_LONG => {
                let (length, data) = after.split_first_chunk::<4>()?;
                (u32::from_le_bytes(*length) as usize, data)
            }
            _ => return None,
        };
        // The main data must end where the record ends.
        let begins_at = RECORD_HEADER + (head.len() - data.len());
        return (begins_at.checked_add(length)? == header.length as usize).then_some(&data[..length.min(data.len())]);
    }
}

struct Data<'a> {
    bytes: &'a [u8],
}

/// `XLOG_XACT_HAS_INFO`, and in `xl_xact_xinfo` what else a record has, in the order of its parts (src/include/access/xact.h).
const XACT_HAS_INFO: u8 = 0x80;
const HAS_DBINFO: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELFILELOCATORS: u32 = 1 << 2;
const HAS_INVALS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_DROPPED_STATS: u32 = 1 << 8;

impl Data<'_> {
    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
    }
    /// The number of the prepared transaction (`ParseCommitRecord`, `ParseAbortRecord`, src/backend/access/rmgrdesc/xactdesc.c).
    fn prepared_xid(&self, header: &RecordHeader, major: u32) -> Option<u32> {
        if header.info & XACT_HAS_INFO == 0 {
            return None;
        }
        let has = self.u32(8)?;
        let mut at = 12;
        if has & HAS_DBINFO != 0 {
            at += 8;
        }
        // xl_xact_stats_item has an object number of 64 bits since PostgreSQL 18.
        let stats_item = if major >= 18 { 16 } else { 12 };
        for (part, item_bytes) in [(HAS_SUBXACTS, 4), (HAS_RELFILELOCATORS, 12), (HAS_DROPPED_STATS, stats_item), (HAS_INVALS, 16)] {
            if has & part != 0 {
                at = (self.u32(at)? as usize).checked_mul(item_bytes)?.checked_add(at + 4)?;
            }
        }
        if has & HAS_TWOPHASE != 0 { self.u32(at) } else { None }
    }
    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
    }
    fn time(&self, at: usize) -> Option<Timestamp> {
        self.u64(at).map(|micros| Timestamp::from_postgres_micros(micros as i64))
    }
    fn timeline(&self, at: usize) -> Option<Timeline> {
        let id = u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?);
        Timeline::new(id).ok()
    }
    /// Up to a zero.
    fn path(&self, at: usize) -> Option<PathBuf> {
        let path = self.bytes.get(at..)?.split(|&b| b == 0).next()?;
        Some(OsStr::from_bytes(path).into())
    }
    /// `rp_name`: at most 63 bytes, then a zero.
    fn name(&self, at: usize) -> Option<String> {
        let field = self.bytes.get(at..at + 64)?;
        let name = field.split(|&b| b == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(rmgr: u8, info: u8, body: usize) -> RecordHeader {
        RecordHeader { length: (RECORD_HEADER + body) as u32, xid: 0, previous: 0, info, rmgr, crc: 0 }
    }

    #[test]
    fn a_commit_is_found_behind_an_origin_and_a_toplevel_transaction() {
        let mut body = vec![253, 1, 0, 252, 1, 0, 0, 0, 255, 8];
        body.extend(0i64.to_le_bytes());
        let at = Timestamp::from_postgres_micros(0);
        assert_eq!(decode(&header(1, 0x80, body.len()), &body, 18), Some(RecordKind::Commit { at }));
        assert_eq!(decode(&header(1, 0x20, body.len()), &body, 18), Some(RecordKind::Abort { at }));
        assert_eq!(decode(&header(1, 0x00, body.len() + 1), &body, 18), None, "the length disagrees");
    }

    #[test]
    fn a_prepared_transaction_has_its_own_number_behind_all_other_parts() {
        for (major, stats_bytes) in [(15, 12), (18, 16)] {
            let mut data = 0i64.to_le_bytes().to_vec();
            data.extend((HAS_DBINFO | HAS_SUBXACTS | HAS_RELFILELOCATORS | HAS_DROPPED_STATS | HAS_INVALS | HAS_TWOPHASE).to_le_bytes());
            data.extend([7; 8]);
            for (count, item_bytes) in [(3u32, 4), (2, 12), (1, stats_bytes), (2, 16)] {
                data.extend(count.to_le_bytes());
                data.extend(vec![9; count as usize * item_bytes]);
            }
            data.extend(4711u32.to_le_bytes());
            data.extend(b"the name of it\0");
            let mut body = vec![255, data.len() as u8];
            body.extend(&data);
            let at = Timestamp::from_postgres_micros(0);
            let decoded = |info, body: &[u8], cut| decode(&header(1, info, body.len()), &body[..body.len() - cut], major);
            assert_eq!(decoded(0xB0, &body, 0), Some(RecordKind::CommitPrepared { at, xid: Some(4711) }), "PostgreSQL {major}");
            assert_eq!(decoded(0xC0, &body, 0), Some(RecordKind::AbortPrepared { at, xid: Some(4711) }), "PostgreSQL {major}");
            assert_eq!(decoded(0xB0, &body, 20), Some(RecordKind::CommitPrepared { at, xid: None }), "it was not kept");
        }
    }

    #[test]
    fn bytes_of_any_length_never_panic() {
        for length in 0..200 {
            for fill in [0u8, 7, 252, 253, 254, 255] {
                let body = vec![fill; length];
                for (rmgr, info) in [(0, 0x00), (0, 0x50), (0, 0x70), (0, 0x90), (0, 0xD0), (1, 0), (1, 0x30), (1, 0xB0)] {
                    let _ = decode(&header(rmgr, info, length), &body, 18);
                }
            }
        }
    }
}
