//! Names of WAL files and of backups.

use crate::lsn::as_text;
use crate::{Lsn, ParseError, SegmentSize, Timeline, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// A WAL segment's file name: timeline, then the segment number in two halves, eight hexadecimal digits
/// each (`XLogFileName`, PostgreSQL src/include/access/xlog_internal.h). Ordered as the log is, within one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: Timeline,
    high: u32,
    low: u32,
}

impl SegmentName {
    /// The segment of `timeline` that holds `lsn`.
    pub fn containing(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self::numbered(lsn.bytes() / size.bytes(), timeline, size)
    }
    /// The segment of `timeline` whose last byte is just before `lsn` or that holds it: a position on a
    /// boundary belongs to the segment that it ends (`XLByteToPrevSeg`).
    pub fn ending_at(lsn: Lsn, timeline: Timeline, size: SegmentSize) -> Self {
        Self::containing(Lsn::from_bytes(lsn.bytes().saturating_sub(1)), timeline, size)
    }
    /// Segment `number` counted from the beginning of the log.
    pub fn numbered(number: u64, timeline: Timeline, size: SegmentSize) -> Self {
        let per_high = 0x1_0000_0000 / size.bytes();
        Self { timeline, high: (number / per_high) as u32, low: (number % per_high) as u32 }
    }
    /// Its number counted from the beginning of the log.
    pub fn number(self, size: SegmentSize) -> u64 {
        u64::from(self.high) * (0x1_0000_0000 / size.bytes()) + u64::from(self.low)
    }
    /// The position of its first byte.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn::from_bytes(self.number(size) * size.bytes())
    }
    /// The position after its last byte.
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.start(size).plus(size.bytes())
    }
    /// The segment after it on the same timeline.
    pub fn next(self, size: SegmentSize) -> Self {
        Self::numbered(self.number(size) + 1, self.timeline, size)
    }
    /// The same stretch of the log on another timeline.
    pub fn on(self, timeline: Timeline) -> Self {
        Self { timeline, ..self }
    }
    /// Its timeline.
    pub fn timeline(self) -> Timeline {
        self.timeline
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.id(), self.high, self.low)
    }
}

impl FromStr for SegmentName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("a WAL segment name of 24 hexadecimal digits", text);
        if text.len() != 24 || !text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
            return Err(wrong());
        }
        let part = |at: usize| u32::from_str_radix(&text[at..at + 8], 16).map_err(|_| wrong());
        Ok(Self { timeline: Timeline::from_hex(&text[..8])?, high: part(8)?, low: part(16)? })
    }
}

/// Every kind of file that PostgreSQL hands to `archive_command` or asks of `restore_command`
/// (`IsXLogFileName` and its siblings, src/include/access/xlog_internal.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalName {
    /// A whole segment.
    Segment(SegmentName),
    /// The last, incomplete segment of a timeline that ended: `{segment}.partial`.
    Partial(SegmentName),
    /// Where a timeline branched off: `{timeline}.history`.
    History(Timeline),
    /// A backup's label: `{segment}.{offset}.backup`.
    BackupLabel(SegmentName, u32),
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "{name}"),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::History(timeline) => write!(f, "{}.history", timeline.hex()),
            Self::BackupLabel(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalName {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new("the name of a WAL segment, .partial, .history or .backup file", text);
        match text.split_once('.') {
            None => text.parse().map(Self::Segment).map_err(|_| wrong()),
            Some((name, "partial")) => name.parse().map(Self::Partial).map_err(|_| wrong()),
            Some((name, "history")) => Timeline::from_hex(name).map(Self::History).map_err(|_| wrong()),
            Some((name, rest)) => {
                let offset = rest.strip_suffix(".backup").filter(|o| o.len() == 8).ok_or_else(wrong)?;
                let offset = u32::from_str_radix(offset, 16).map_err(|_| wrong())?;
                name.parse().map(|n| Self::BackupLabel(n, offset)).map_err(|_| wrong())
            }
        }
    }
}

/// What kind of backup a folder of the repository holds; the second word of `{org}/{type}/{timestamp}/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// A self-contained base backup.
    Full,
    /// A snapshot of the application's objects.
    Packages,
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Packages => "packages",
        })
    }
}

/// A backup's name: the second at which it began, in UTC, `YYYYMMDDTHHMMSSZ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(Timestamp);

impl BackupId {
    /// The id of a backup that began at `at`; parts of a second are cut off.
    pub fn begun(at: Timestamp) -> Self {
        Self(Timestamp::from_unix_micros(at.unix_micros().div_euclid(1_000_000) * 1_000_000))
    }
    /// When it began.
    pub fn time(self) -> Timestamp {
        self.0
    }
    /// The id a second later: the next one to try when this one is taken.
    pub fn next(self) -> Self {
        Self(self.0.plus_micros(1_000_000))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.compact())
    }
}

impl FromStr for BackupId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Timestamp::from_compact(text).map(Self).ok_or_else(|| ParseError::new("a backup id such as 20261122T020000Z", text))
    }
}

as_text!(SegmentName, BackupId);

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    #[test]
    fn a_segment_name_round_trips_and_knows_its_place() {
        let name: SegmentName = "000000010000000A000000C3".parse().unwrap();
        assert_eq!(name.to_string(), "000000010000000A000000C3");
        assert_eq!(name.start(SIZE).to_string(), "A/C3000000");
        assert_eq!(SegmentName::containing(name.start(SIZE), name.timeline(), SIZE), name);
        assert_eq!(SegmentName::ending_at(name.end(SIZE), name.timeline(), SIZE), name);
        assert_eq!(SegmentName::containing(name.end(SIZE), name.timeline(), SIZE), name.next(SIZE));
    }

    #[test]
    fn the_segment_after_ff_carries_into_the_high_half() {
        let name: SegmentName = "0000000100000000000000FF".parse().unwrap();
        assert_eq!(name.next(SIZE).to_string(), "000000010000000100000000");
        let big = SegmentSize::from_bytes(1 << 30).unwrap();
        let name: SegmentName = "000000010000000000000003".parse().unwrap();
        assert_eq!(name.next(big).to_string(), "000000010000000100000000");
    }

    #[test]
    fn each_kind_of_wal_file_name_is_known_and_nothing_else_is() {
        for good in ["000000010000000A000000C3", "000000010000000A000000C3.partial", "0000000A.history", "000000010000000A000000C3.00000028.backup"] {
            assert_eq!(good.parse::<WalName>().unwrap().to_string(), good);
        }
        for bad in ["", "x", "../../etc/passwd", "000000010000000A000000C3.", "000000010000000A000000C3.gz", "00000000.history"] {
            assert!(bad.parse::<WalName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_backup_id_is_the_second_it_began() {
        let id: BackupId = "20261122T020000Z".parse().unwrap();
        assert_eq!(id.to_string(), "20261122T020000Z");
        assert_eq!(BackupId::begun(id.time().plus_micros(999_999)), id);
        assert_eq!(id.next().to_string(), "20261122T020001Z");
        assert!("20261322T020000Z".parse::<BackupId>().is_err());
    }
}
