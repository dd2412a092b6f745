//! The headers of WAL pages and what they say of the segment they are in.

use crate::disk_error::DiskError;
use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

/// Bytes of a WAL page (`XLOG_BLCKSZ`); Bowline supports the default build only.
pub const WAL_PAGE_SIZE: usize = 8192;

/// `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD`, src/include/access/xlog_internal.h.
pub(crate) const SHORT_HEADER: usize = 24;
pub(crate) const LONG_HEADER: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const HAS_LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// The number that begins each WAL page of a major version (`XLOG_PAGE_MAGIC`, src/include/access/xlog_internal.h);
/// `None` for a version that Bowline does not support.
pub const fn page_magic(major: u32) -> Option<u16> {
    match major {
        15 => Some(0xD110),
        16 => Some(0xD113),
        17 => Some(0xD116),
        18 => Some(0xD118),
        _ => None,
    }
}

/// What begins every WAL page (`XLogPageHeaderData`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Tells the major version.
    pub magic: u16,
    /// Flag bits.
    pub info: u16,
    /// The timeline of the first record on the page, as a plain number: zero is possible in garbage.
    pub timeline: u32,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// How many bytes of a record begun on an earlier page are still to come, this page's among them.
    pub rest: u32,
}

impl PageHeader {
    /// Reads the first 24 bytes of a page.
    pub fn read(bytes: &[u8; 24]) -> Self {
        let [m0, m1, i0, i1, t0, t1, t2, t3, a0, a1, a2, a3, a4, a5, a6, a7, r0, r1, r2, r3, ..] = *bytes;
        Self {
            magic: u16::from_le_bytes([m0, m1]),
            info: u16::from_le_bytes([i0, i1]),
            timeline: u32::from_le_bytes([t0, t1, t2, t3]),
            address: Lsn::from_bytes(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            rest: u32::from_le_bytes([r0, r1, r2, r3]),
        }
    }
    /// The page begins with the rest of a record.
    pub fn continues_record(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }
    /// The rest of a record should be here, but its writer crashed and the server went on with other records
    /// (`CreateOverwriteContrecordRecord`, src/backend/access/transam/xlog.c).
    pub fn overwrites_record(&self) -> bool {
        self.info & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }
    /// The header is long: it names the cluster and the sizes.
    pub fn is_long(&self) -> bool {
        self.info & HAS_LONG_HEADER != 0
    }
    /// Bytes of the header: 24 or 40.
    pub fn size(&self) -> usize {
        if self.is_long() { LONG_HEADER } else { SHORT_HEADER }
    }
    pub(super) fn has_only_known_flags(&self) -> bool {
        self.info & !ALL_FLAGS == 0
    }
}

/// The first page's header of a segment (`XLogLongPageHeaderData`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The part that all pages have.
    pub page: PageHeader,
    /// The major version, from the magic.
    pub major: u32,
    /// The cluster that wrote the segment.
    pub system_id: SystemId,
    /// The size of the segment.
    pub segment_size: SegmentSize,
}

impl SegmentHeader {
    /// Reads the beginning of a segment, of which 40 bytes are needed. `name` is for the error only.
    pub fn read(bytes: &[u8], name: &str) -> Result<Self, DiskError> {
        let damaged = |what: String| DiskError::Segment { segment: name.to_owned(), what };
        let too_short = || damaged(format!("It has only {} bytes", bytes.len()));
        let header: &[u8; LONG_HEADER] = bytes.first_chunk().ok_or_else(too_short)?;
        let (short, long) = header.split_first_chunk::<SHORT_HEADER>().ok_or_else(too_short)?;
        let page = PageHeader::read(short);
        let Some(major) = (15..=18).find(|&major| page_magic(major) == Some(page.magic)) else {
            return Err(damaged(format!("It begins with {:04X}, which is no WAL of PostgreSQL 15 to 18", page.magic)));
        };
        if !page.is_long() || !page.has_only_known_flags() {
            return Err(damaged(format!("Its first page has the flags {:04X}, not those of a segment's first page", page.info)));
        }
        let word = |at: usize| u32::from_le_bytes([long[at], long[at + 1], long[at + 2], long[at + 3]]);
        if word(12) as usize != WAL_PAGE_SIZE {
            return Err(damaged(format!("Its pages have {} bytes; Bowline knows only pages of {WAL_PAGE_SIZE}", word(12))));
        }
        let segment_size = SegmentSize::from_bytes(word(8).into()).map_err(|e| damaged(e.to_string()))?;
        let system_id = SystemId::new(u64::from(word(0)) | u64::from(word(4)) << 32);
        Ok(Self { page, major, system_id, segment_size })
    }

    /// Checks that this is the header of the segment `name` of the cluster `system_id`: its position, size and
    /// timeline. A segment in which a timeline branched off begins with its ancestor's pages, so an older
    /// timeline than the name's is right.
    pub fn check(&self, name: SegmentName, system_id: SystemId, size: SegmentSize) -> Result<(), DiskError> {
        let damaged = |what: String| Err(DiskError::Segment { segment: name.to_string(), what });
        if self.system_id != system_id {
            return Err(DiskError::ForeignSegment { segment: name.to_string(), wanted: system_id, found: self.system_id });
        }
        if self.segment_size != size {
            return damaged(format!("It says that segments have {} bytes, the cluster's have {}", self.segment_size.bytes(), size.bytes()));
        }
        if self.page.address != name.start(size) {
            // A recycled segment that was not written yet looks like this.
            return damaged(format!("Its bytes are those of position {}, not of {}", self.page.address, name.start(size)));
        }
        if Timeline::new(self.page.timeline).is_ok_and(|t| t <= name.timeline()) {
            return Ok(());
        }
        damaged(format!("Its bytes are of timeline {}", self.page.timeline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn header(magic: u16, info: u16, timeline: u32, address: u64, system_id: u64, size: u32, page: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(magic.to_le_bytes());
        bytes.extend(info.to_le_bytes());
        bytes.extend(timeline.to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(system_id.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(page.to_le_bytes());
        bytes
    }

    #[test]
    fn a_segment_is_accepted_only_under_its_own_name() {
        let name: SegmentName = "000000020000000000000003".parse().unwrap();
        let check = |bytes: &[u8]| SegmentHeader::read(bytes, "x").and_then(|h| h.check(name, SystemId::new(9), SIZE));
        let good = |timeline, address, id, size| header(0xD116, 2, timeline, address, id, size, 8192);
        assert!(check(&good(2, 0x300_0000, 9, 16 << 20)).is_ok());
        assert!(check(&good(1, 0x300_0000, 9, 16 << 20)).is_ok(), "the ancestor's pages");
        for (what, bytes) in [
            ("a later timeline", good(3, 0x300_0000, 9, 16 << 20)),
            ("no timeline", good(0, 0x300_0000, 9, 16 << 20)),
            ("another place", good(2, 0x200_0000, 9, 16 << 20)),
            ("another size", good(2, 0x300_0000, 9, 1 << 20)),
            ("another PostgreSQL", header(0xD10D, 2, 2, 0x300_0000, 9, 16 << 20, 8192)),
            ("a short header", header(0xD116, 0, 2, 0x300_0000, 9, 16 << 20, 8192)),
            ("other pages", header(0xD116, 2, 2, 0x300_0000, 9, 16 << 20, 16384)),
            ("too few bytes", good(2, 0x300_0000, 9, 16 << 20)[..39].to_vec()),
        ] {
            assert!(matches!(check(&bytes), Err(DiskError::Segment { .. })), "{what}");
        }
        assert!(matches!(check(&good(2, 0x300_0000, 8, 16 << 20)), Err(DiskError::ForeignSegment { .. })));
    }
}
