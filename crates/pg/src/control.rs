//! Reads `global/pg_control` of PostgreSQL 15 to 18.

use crate::disk_error::DiskError;
use terms::{Lsn, SegmentSize, SystemId, Timeline, Timestamp};

/// Where it is, relative to the data directory (`XLOG_CONTROL_FILE`, src/include/access/xlog_internal.h).
pub const CONTROL_FILE: &str = "global/pg_control";
/// Its size on disk in bytes (`PG_CONTROL_FILE_SIZE`, src/include/catalog/pg_control.h).
pub const CONTROL_FILE_SIZE: usize = 8192;

/// What the cluster was doing when pg_control was last written (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// `DB_STARTUP`; PostgreSQL itself refuses a cluster that says so.
    StartingUp,
    /// Cleanly (`DB_SHUTDOWNED`): nothing needs to be replayed.
    ShutDown,
    /// A standby that was shut down cleanly (`DB_SHUTDOWNED_IN_RECOVERY`).
    ShutDownInRecovery,
    /// It is writing its last checkpoint (`DB_SHUTDOWNING`).
    ShuttingDown,
    /// It replays its own pg_wal (`DB_IN_CRASH_RECOVERY`).
    InCrashRecovery,
    /// A standby, or a restore that is under way (`DB_IN_ARCHIVE_RECOVERY`).
    InArchiveRecovery,
    /// A primary that runs, or that did not end cleanly (`DB_IN_PRODUCTION`).
    InProduction,
}

/// How much WAL tells (`WalLevel`, src/include/access/xlog.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for a crash, too little for a backup (`WAL_LEVEL_MINIMAL`).
    Minimal,
    /// Enough for backups and standbys (`WAL_LEVEL_REPLICA`).
    Replica,
    /// Enough for logical decoding, too (`WAL_LEVEL_LOGICAL`).
    Logical,
}

/// The values of pg_control that a backup and a restore need (`ControlFileData`, src/include/catalog/pg_control.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's identity.
    pub system_id: SystemId,
    /// The format of pg_control: 1300 (15, 16), 1700, 1800.
    pub control_version: u32,
    /// The format of the system catalogs; names the directories within tablespaces.
    pub catalog_version: u32,
    /// The server's major version: 15 to 18.
    pub major: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// When pg_control was last written; whole seconds.
    pub written_at: Timestamp,
    /// Where the latest checkpoint's record is.
    pub checkpoint: Lsn,
    /// Where replay begins from that checkpoint.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: Timeline,
    /// The timeline before, when the checkpoint began a new one; else the same.
    pub previous_timeline: Timeline,
    /// When that checkpoint was made; whole seconds.
    pub checkpoint_at: Timestamp,
    /// Whether pages are written whole after a checkpoint.
    pub full_page_writes: bool,
    /// The transaction id that was next at that checkpoint, its epoch in the high half (`FullTransactionId`).
    pub next_xid: u64,
    /// The oldest transaction id that any row may still bear: the commit log reaches back to it.
    pub oldest_xid: u32,
    /// How far a standby or a restore must replay before it is consistent; zero elsewhere.
    pub min_recovery_point: Lsn,
    /// The timeline of that position; `None` when there is none.
    pub min_recovery_timeline: Option<Timeline>,
    /// The redo position of the backup being restored; zero when none is.
    pub backup_start: Lsn,
    /// The end of a backup from a standby being restored; zero when none is.
    pub backup_end: Lsn,
    /// A backup is being restored and its end record must still come.
    pub backup_end_required: bool,
    /// `wal_level` of the server that wrote the WAL.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// The settings below must not be smaller on a server that replays this WAL with hot_standby on.
    pub max_connections: u32,
    /// As above.
    pub max_worker_processes: u32,
    /// As above.
    pub max_wal_senders: u32,
    /// As above; the setting is `max_prepared_transactions`.
    pub max_prepared_xacts: u32,
    /// As above; the setting is `max_locks_per_transaction`.
    pub max_locks_per_xact: u32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Bytes of a data page.
    pub page_size: u32,
    /// Pages in a file of a large relation: 131072, which is 1 GiB.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL page.
    pub wal_page_size: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
}

impl ControlFile {
    /// Parses the bytes of pg_control; the unused rest of the file may be missing. The checksum is compared
    /// before anything but the version is believed.
    pub fn parse(bytes: &[u8]) -> Result<Self, DiskError> {
        let field = Fields { bytes };
        let (control_version, catalog_version) = (field.u32(8)?, field.u32(12)?);
        let unsupported = || DiskError::ControlVersion { control_version, catalog_version };
        let major = major_of(control_version, catalog_version).ok_or_else(unsupported)?;
        let checksum_at = checksum_at(control_version);
        let stored = field.u32(checksum_at)?;
        let computed = crc32c::crc32c(&bytes[..checksum_at]);
        if stored != computed {
            return Err(damaged(format!("Its checksum is {stored:08X}, but its bytes make {computed:08X}")));
        }
        let timeline_or_none = |at| field.u32(at).map(|id| Timeline::new(id).ok());
        let timeline = |at| timeline_or_none(at)?.ok_or_else(|| damaged("A timeline is zero".into()));
        Ok(Self {
            system_id: SystemId::new(field.u64(0)?),
            control_version,
            catalog_version,
            major,
            state: state_of(field.u32(16)?)?,
            written_at: field.seconds(24)?,
            checkpoint: field.lsn(CHECKPOINT_AT)?,
            redo: field.lsn(40)?,
            timeline: timeline(48)?,
            previous_timeline: timeline(52)?,
            full_page_writes: field.bool(56)?,
            next_xid: field.u64(64)?,
            oldest_xid: field.u32(84)?,
            checkpoint_at: field.seconds(104)?,
            min_recovery_point: field.lsn(136)?,
            min_recovery_timeline: timeline_or_none(144)?,
            backup_start: field.lsn(152)?,
            backup_end: field.lsn(160)?,
            backup_end_required: field.bool(168)?,
            wal_level: wal_level_of(field.u32(172)?)?,
            wal_log_hints: field.bool(176)?,
            max_connections: field.u32(180)?,
            max_worker_processes: field.u32(184)?,
            max_wal_senders: field.u32(188)?,
            max_prepared_xacts: field.u32(192)?,
            max_locks_per_xact: field.u32(196)?,
            track_commit_timestamp: field.bool(200)?,
            page_size: field.u32(216)?,
            relation_segment_blocks: field.u32(220)?,
            wal_page_size: field.u32(224)?,
            segment_size: SegmentSize::from_bytes(field.u32(228)?.into()).map_err(|e| damaged(e.to_string()))?,
            data_checksums: field.u32(252)? != 0,
        })
    }

    /// Changes the bytes of pg_control so that no server starts with them unless backup_label says where to: the checkpoint that they name
    /// is one that no log has. With backup_label the server replaces it before anything else (`InitWalRecovery`,
    /// src/backend/access/transam/xlogrecovery.c); without, it would recover from a checkpoint that was made while the files were copied,
    /// and nobody would see what is missing.
    pub fn need_label(bytes: &mut [u8]) -> Result<(), DiskError> {
        let end = checksum_at(Self::parse(bytes)?.control_version);
        // A place within a page where a record may begin (`XRecOffIsValid`): else the server refuses it with the label, too.
        bytes[CHECKPOINT_AT..CHECKPOINT_AT + 8].copy_from_slice(&0xDEAD_BEE8_u64.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
        Ok(())
    }

    /// The directory of this cluster within each tablespace, e.g. `PG_17_202406281`
    /// (`TABLESPACE_VERSION_DIRECTORY`, src/include/common/relpath.h).
    pub fn tablespace_dir(&self) -> String {
        format!("PG_{}_{}", self.major, self.catalog_version)
    }
}

const CHECKPOINT_AT: usize = 32;

/// 18 put default_char_signedness before the 32 bytes of the nonce, which moved the checksum by four.
fn checksum_at(control_version: u32) -> usize {
    if control_version >= 1800 { 292 } else { 288 }
}

/// 15 and 16 share a control version, so they are told apart by the catalog version that each was released with.
fn major_of(control_version: u32, catalog_version: u32) -> Option<u32> {
    match (control_version, catalog_version) {
        (1300, 202_209_061) => Some(15),
        (1300, 202_307_071) => Some(16),
        (1700, _) => Some(17),
        (1800, _) => Some(18),
        _ => None,
    }
}

fn state_of(number: u32) -> Result<ClusterState, DiskError> {
    use ClusterState::*;
    let states = [StartingUp, ShutDown, ShutDownInRecovery, ShuttingDown, InCrashRecovery, InArchiveRecovery, InProduction];
    states.get(number as usize).copied().ok_or_else(|| damaged(format!("Its state is {number}")))
}

fn wal_level_of(number: u32) -> Result<WalLevel, DiskError> {
    match number {
        0 => Ok(WalLevel::Minimal),
        1 => Ok(WalLevel::Replica),
        2 => Ok(WalLevel::Logical),
        _ => Err(damaged(format!("Its wal_level is {number}"))),
    }
}

fn damaged(what: String) -> DiskError {
    DiskError::Control { what }
}

/// pg_control is the memory image of a C struct; all supported platforms of Bowline are little-endian.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], DiskError> {
        let found = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().ok_or_else(|| damaged(format!("It has only {} bytes", self.bytes.len())))
    }
    fn u32(&self, at: usize) -> Result<u32, DiskError> {
        self.array(at).map(u32::from_le_bytes)
    }
    fn u64(&self, at: usize) -> Result<u64, DiskError> {
        self.array(at).map(u64::from_le_bytes)
    }
    fn lsn(&self, at: usize) -> Result<Lsn, DiskError> {
        self.u64(at).map(Lsn::from_bytes)
    }
    fn bool(&self, at: usize) -> Result<bool, DiskError> {
        self.array::<1>(at).map(|[b]| b != 0)
    }
    fn seconds(&self, at: usize) -> Result<Timestamp, DiskError> {
        self.array(at).map(|b| Timestamp::from_unix_micros(i64::from_le_bytes(b).saturating_mul(1_000_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_version_are_only_believed_with_a_good_checksum() {
        let mut bytes = vec![0; CONTROL_FILE_SIZE];
        assert!(matches!(ControlFile::parse(&bytes), Err(DiskError::ControlVersion { .. })));
        bytes[8..12].copy_from_slice(&1700u32.to_le_bytes());
        assert!(matches!(ControlFile::parse(&bytes), Err(DiskError::Control { .. })));
        let sum = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&sum.to_le_bytes());
        let what = ControlFile::parse(&bytes).unwrap_err();
        assert!(matches!(what, DiskError::Control { what } if what.contains("timeline")));
    }

    #[test]
    fn a_short_file_is_refused_at_every_length() {
        let mut bytes = vec![0; 300];
        bytes[8..12].copy_from_slice(&1800u32.to_le_bytes());
        for length in 0..bytes.len() {
            assert!(ControlFile::parse(&bytes[..length]).is_err(), "{length}");
        }
    }
}
