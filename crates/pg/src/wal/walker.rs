//! Walks over the records of a timeline as its bytes arrive, holding no more than the beginning of one record.

use super::header::{LONG_HEADER, PageHeader, SHORT_HEADER, SegmentHeader, WAL_PAGE_SIZE, page_magic};
use super::record::{RECORD_HEADER, Record, RecordHeader, decode};
use terms::{Lsn, SegmentSize, SystemId, Timeline};

/// Whose log is read; pages that say otherwise end the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSource {
    /// The server's major version, 15 to 18; no page is valid for another.
    pub major: u32,
    /// The cluster.
    pub system_id: SystemId,
    /// The timeline; pages of its ancestors are right too, as long as the number never falls.
    pub timeline: Timeline,
    /// The size of a segment.
    pub segment_size: SegmentSize,
}

/// Where the valid log ends, and why it ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The end of the last valid record: where the next one would begin.
    pub at: Lsn,
    /// What stands there instead.
    pub reason: EndReason,
}

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Zeros: nothing was written here yet.
    ZeroTail,
    /// A record's length or resource manager is impossible, or its parts do not add up.
    BadHeader,
    /// A record's checksum does not match.
    BadCrc,
    /// A record does not name the one before it as its predecessor.
    BadPrev,
    /// A page's header is not the one that belongs here.
    PageMismatch,
    /// All bytes given so far were valid.
    NeedMoreData,
}

/// Is fed the bytes of consecutive segments, in pieces of any size, and yields each record once it is complete and its
/// CRC was checked. It follows `XLogDecodeNextRecord` (src/backend/access/transam/xlogreader.c) in what it accepts.
#[derive(Debug)]
pub struct RecordWalker {
    source: WalSource,
    magic: u16,
    /// The position of the next byte, of the page's first while its header is incomplete.
    position: u64,
    stage: Stage,
    page_timeline: u32,
    page_header: [u8; LONG_HEADER],
    page_header_len: usize,
    /// The beginning of the record being read: as much as is needed to understand it, not all of it.
    head: [u8; HEAD],
    /// What follows the fixed header, of a record of which more than the beginning is needed.
    long: Vec<u8>,
    /// How many bytes of that record were read, more than `head` holds perhaps.
    have: u32,
    header: Option<RecordHeader>,
    record_start: u64,
    crc: u32,
    previous: Option<u64>,
    valid_to: u64,
    ended: Option<EndReason>,
}

/// The largest record that matters is a checkpoint: 24 bytes of header, 10 of data headers, 88 of data.
const HEAD: usize = 256;
/// So much is kept of a record that is needed whole: one that ends a prepared transaction which dropped some ten thousand tables.
const LONG_MAX: usize = 1 << 20;
const PAGE: u64 = WAL_PAGE_SIZE as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Passing over bytes up to a position; page headers on the way are checked.
    Seek { until: u64 },
    /// Passing over the unused rest of a segment after a switch, whatever is in it.
    Unused { until: u64 },
    /// Looking for the first page on which a record begins.
    FindFirst,
    /// A record begins at the position, or on the page that begins there.
    Boundary,
    /// Within a record.
    Inside,
}

impl RecordWalker {
    /// A walk from the record that begins at `start`. The first byte fed must be that of [`RecordWalker::position`].
    pub fn at(source: WalSource, start: Lsn) -> Self {
        let walker = Self::begin(source, start.segment_start(source.segment_size).bytes());
        Self { stage: Stage::Seek { until: start.bytes() }, valid_to: start.bytes(), ..walker }
    }

    /// A walk from the first record that begins in the segment that holds `lsn`, or later.
    pub fn in_segment(source: WalSource, lsn: Lsn) -> Self {
        Self::begin(source, lsn.segment_start(source.segment_size).bytes())
    }

    fn begin(source: WalSource, position: u64) -> Self {
        Self {
            source,
            magic: page_magic(source.major).unwrap_or(0),
            position,
            stage: Stage::FindFirst,
            page_timeline: 1,
            page_header: [0; LONG_HEADER],
            page_header_len: 0,
            head: [0; HEAD],
            long: Vec::new(),
            have: 0,
            header: None,
            record_start: position,
            crc: 0,
            previous: None,
            valid_to: position,
            ended: None,
        }
    }

    /// The position of the next byte to feed.
    pub fn position(&self) -> Lsn {
        Lsn::from_bytes(self.position.wrapping_add(self.page_header_len as u64))
    }

    /// Takes the next bytes, calls `each` for every record that they complete, and says where the valid log ends
    /// if it does within them. Once it has ended, further bytes change nothing.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Record)) -> Option<End> {
        while self.ended.is_none() && !bytes.is_empty() {
            let in_page = self.position % PAGE;
            let taken = match self.stage {
                Stage::Unused { until } => self.pass_over(bytes.len(), until),
                _ if in_page == 0 => self.take_page_header(bytes),
                Stage::Seek { until } => self.pass_over(bytes.len().min((PAGE - in_page) as usize), until),
                Stage::FindFirst => self.pass_over(bytes.len(), self.position - in_page + PAGE),
                Stage::Boundary | Stage::Inside => {
                    let here = &bytes[..bytes.len().min((PAGE - in_page) as usize)];
                    self.take_record(here, &mut each)
                }
            };
            bytes = &bytes[taken..];
        }
        self.ended.map(|_| self.end())
    }

    /// Where a record begins of which the end was not fed yet.
    pub fn open_record(&self) -> Option<Lsn> {
        let open = self.stage == Stage::Inside && self.ended.is_none();
        open.then(|| Lsn::from_bytes(self.record_start))
    }

    /// Where the valid log ends as far as it was fed.
    pub fn end(&self) -> End {
        End { at: Lsn::from_bytes(self.valid_to), reason: self.ended.unwrap_or(EndReason::NeedMoreData) }
    }

    /// The page header at the position, perhaps in pieces. Returns how many bytes were used.
    fn take_page_header(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let wanted = match self.page_header_len {
                ..SHORT_HEADER => SHORT_HEADER,
                _ => self.read_page_header().size(),
            };
            let missing = wanted - self.page_header_len;
            if missing == 0 {
                break;
            }
            let piece = &bytes[taken..bytes.len().min(taken + missing)];
            self.page_header[self.page_header_len..][..piece.len()].copy_from_slice(piece);
            self.page_header_len += piece.len();
            taken += piece.len();
            if piece.len() < missing {
                return taken;
            }
        }
        let header = self.read_page_header();
        let size = std::mem::take(&mut self.page_header_len);
        match self.judge_page(&header, size) {
            Ok(stage) => {
                self.position = self.position.wrapping_add(size as u64);
                self.page_timeline = header.timeline;
                self.stage = stage;
                self.arrive();
            }
            Err(reason) => self.ended = Some(reason),
        }
        taken
    }

    fn read_page_header(&self) -> PageHeader {
        let mut short = [0; SHORT_HEADER];
        short.copy_from_slice(&self.page_header[..SHORT_HEADER]);
        PageHeader::read(&short)
    }

    /// `XLogReaderValidatePageHeader`, and what the page means for the record being read: the stage after its header.
    fn judge_page(&mut self, header: &PageHeader, size: usize) -> Result<Stage, EndReason> {
        if self.page_header[..SHORT_HEADER].iter().all(|&b| b == 0) {
            return Err(EndReason::ZeroTail);
        }
        let begins_segment = self.position.is_multiple_of(self.source.segment_size.bytes());
        let fits = header.magic == self.magic
            && header.has_only_known_flags()
            && header.address.bytes() == self.position
            && (self.page_timeline..=self.source.timeline.id()).contains(&header.timeline)
            && (header.is_long() || !begins_segment)
            && (!header.is_long() || self.is_same_cluster());
        if !fits {
            return Err(EndReason::PageMismatch);
        }
        let payload = PAGE - size as u64;
        let after = self.position.wrapping_add(size as u64);
        let aligned_rest = u64::from(header.rest).next_multiple_of(8);
        match self.stage {
            // Its writer crashed: that record never was, and the log goes on here.
            Stage::Inside if header.overwrites_record() => {
                self.forget_record();
                Ok(Stage::Boundary)
            }
            Stage::Inside if header.continues_record() && header.rest != 0 && self.missing() == header.rest => Ok(Stage::Inside),
            Stage::Inside => Err(EndReason::PageMismatch),
            Stage::FindFirst if !header.continues_record() => Ok(Stage::Boundary),
            Stage::FindFirst if aligned_rest >= payload => Ok(Stage::FindFirst),
            Stage::FindFirst => Ok(Stage::Seek { until: after.wrapping_add(aligned_rest) }),
            Stage::Seek { until } if until > after => Ok(Stage::Seek { until }),
            // A record was expected to begin here, but the rest of another stands here.
            _ if header.continues_record() => Err(EndReason::PageMismatch),
            _ => Ok(Stage::Boundary),
        }
    }

    fn is_same_cluster(&self) -> bool {
        SegmentHeader::read(&self.page_header, "")
            .is_ok_and(|long| long.system_id == self.source.system_id && long.segment_size == self.source.segment_size)
    }

    fn pass_over(&mut self, available: usize, until: u64) -> usize {
        let distance = until.wrapping_sub(self.position);
        let taken = usize::try_from(distance).map_or(available, |d| d.min(available));
        self.position = self.position.wrapping_add(taken as u64);
        self.arrive();
        taken
    }

    /// Notices that the place sought was reached.
    fn arrive(&mut self) {
        match self.stage {
            Stage::Seek { until } | Stage::Unused { until } if until == self.position => self.stage = Stage::Boundary,
            _ => {}
        }
        if self.stage == Stage::Boundary && self.previous.is_none() {
            self.valid_to = self.position;
        }
    }

    /// Bytes of a record that lie on one page. Returns how many were used.
    fn take_record(&mut self, here: &[u8], each: &mut impl FnMut(Record)) -> usize {
        if self.stage == Stage::Boundary {
            self.record_start = self.position;
            if let Some(taken) = self.take_whole_record(here, each) {
                return taken;
            }
            self.stage = Stage::Inside;
        }
        let mut taken = 0;
        if self.header.is_none() {
            taken = here.len().min(RECORD_HEADER - self.have as usize);
            self.head[self.have as usize..][..taken].copy_from_slice(&here[..taken]);
            self.have += taken as u32;
            let Some(full) = self.head.first_chunk().filter(|_| self.have as usize == RECORD_HEADER) else {
                // The length is always on the record's first page; zeros there end the log, whatever page comes next.
                if self.have >= 8 && self.head[..self.have as usize].iter().all(|&b| b == 0) {
                    self.ended = Some(EndReason::ZeroTail);
                }
                self.position = self.position.wrapping_add(taken as u64);
                return taken;
            };
            match self.judge_header(full) {
                Ok(header) => self.header = Some(header),
                Err(reason) => {
                    self.ended = Some(reason);
                    return taken;
                }
            }
        }
        let body = &here[taken..here.len().min(taken + (self.missing() as usize))];
        if let Some(room) = self.head.get_mut(self.have as usize..) {
            let kept = room.len().min(body.len());
            room[..kept].copy_from_slice(&body[..kept]);
        }
        if self.header.is_some_and(|header| header.is_needed_whole()) {
            let kept = body.len().min(LONG_MAX - self.long.len());
            self.long.extend_from_slice(&body[..kept]);
        }
        self.crc = crc32c::crc32c_append(self.crc, body);
        self.have += body.len() as u32;
        taken += body.len();
        self.position = self.position.wrapping_add(taken as u64);
        if let Some(header) = self.header.filter(|_| self.missing() == 0) {
            let head = self.head;
            let kept = (header.length as usize).min(HEAD);
            let (crc, long) = (self.crc, std::mem::take(&mut self.long));
            self.forget_record();
            let body = if long.is_empty() { &head[RECORD_HEADER..kept] } else { &long };
            self.complete(&header, &head[..RECORD_HEADER], body, crc, each);
        }
        taken
    }

    /// The usual case: all of the record is at hand, and nothing of it need be copied.
    fn take_whole_record(&mut self, here: &[u8], each: &mut impl FnMut(Record)) -> Option<usize> {
        let (fixed, _) = here.split_first_chunk::<RECORD_HEADER>()?;
        let header = match self.judge_header(fixed) {
            Ok(header) => header,
            Err(reason) => {
                self.ended = Some(reason);
                return Some(0);
            }
        };
        let length = header.length as usize;
        let body = here.get(RECORD_HEADER..length)?;
        self.position = self.position.wrapping_add(length as u64);
        self.complete(&header, fixed, body, crc32c::crc32c(body), each);
        Some(length)
    }

    fn judge_header(&self, fixed: &[u8; RECORD_HEADER]) -> Result<RecordHeader, EndReason> {
        let header = RecordHeader::read(fixed);
        if !header.is_possible() {
            return Err(if fixed.iter().all(|&b| b == 0) { EndReason::ZeroTail } else { EndReason::BadHeader });
        }
        // A stale but whole record of a recycled page is found by this.
        let follows = match self.previous {
            Some(previous) => header.previous == previous,
            None => header.previous < self.record_start,
        };
        if follows { Ok(header) } else { Err(EndReason::BadPrev) }
    }

    /// All bytes of the record were seen; the position is just after them. The CRC covers the body, then the header
    /// up to the CRC itself (`ValidXLogRecord`).
    fn complete(&mut self, header: &RecordHeader, fixed: &[u8], body_head: &[u8], body_crc: u32, each: &mut impl FnMut(Record)) {
        if crc32c::crc32c_append(body_crc, &fixed[..RECORD_HEADER - 4]) != header.crc {
            self.ended = Some(EndReason::BadCrc);
            return;
        }
        let Some(kind) = decode(header, body_head, self.source.major) else {
            self.ended = Some(EndReason::BadHeader);
            return;
        };
        let aligned = self.position.checked_next_multiple_of(8).unwrap_or(self.position);
        let segment = self.source.segment_size.bytes();
        let until = if header.is_switch() { aligned.checked_next_multiple_of(segment).unwrap_or(aligned) } else { aligned };
        self.previous = Some(self.record_start);
        self.valid_to = until;
        self.stage = Stage::Unused { until };
        self.arrive();
        each(Record {
            start: Lsn::from_bytes(self.record_start),
            end: Lsn::from_bytes(until),
            length: header.length,
            xid: header.xid,
            rmgr: header.rmgr,
            info: header.info,
            kind,
        });
    }

    /// How many bytes of the record are still to come, by its own length.
    fn missing(&self) -> u32 {
        let length = u32::from_le_bytes([self.head[0], self.head[1], self.head[2], self.head[3]]);
        length.saturating_sub(self.have)
    }

    fn forget_record(&mut self) {
        self.have = 0;
        self.header = None;
        self.crc = 0;
        self.long.clear();
    }
}
