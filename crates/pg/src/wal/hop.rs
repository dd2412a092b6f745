//! Over the records of one segment from header to header, without reading what is in them: for what is asked of every segment, and nearly
//! always answered with no.

use super::header::{LONG_HEADER, PageHeader, SHORT_HEADER, WAL_PAGE_SIZE};
use super::record::{RECORD_HEADER, RecordHeader};

/// Whether a record may begin in this segment that creates a tablespace. Never `false` where one does: what cannot be told from here, a
/// header that is cut by the segment's end or an unfinished record, counts as one.
pub fn may_create_tablespace(segment: &[u8]) -> bool {
    let Some(first) = segment.first_chunk().map(PageHeader::read) else { return true };
    let log = Log { bytes: segment };
    let rest = if first.continues_record() { first.rest as usize } else { 0 };
    if rest > 0 && log.is_overwritten(0, rest) {
        return true;
    }
    let mut at = aligned(rest);
    while at < log.len() {
        let Some(fixed) = log.header(at) else { return true };
        let header = RecordHeader::read(&fixed);
        match header.length as usize {
            // Nothing was written from here on.
            0 => return false,
            _ if !header.is_possible() || header.creates_tablespace() => return true,
            _ if header.is_switch() => return false,
            length if log.is_overwritten(at, at + length) => return true,
            length => at = aligned(at + length),
        }
    }
    false
}

fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

/// A segment without the headers of its pages.
struct Log<'a> {
    bytes: &'a [u8],
}

/// Of a page with a short header.
const IN_PAGE: usize = WAL_PAGE_SIZE - SHORT_HEADER;

impl Log<'_> {
    fn len(&self) -> usize {
        (self.bytes.len() / WAL_PAGE_SIZE * IN_PAGE).saturating_sub(LONG_HEADER - SHORT_HEADER)
    }
    /// Which page holds the byte of this number, and where in it.
    fn place(number: usize) -> (usize, usize) {
        // The first page's longer header counts as log, then all pages are alike.
        let number = number + LONG_HEADER - SHORT_HEADER;
        (number / IN_PAGE, SHORT_HEADER + number % IN_PAGE)
    }
    fn header(&self, at: usize) -> Option<[u8; RECORD_HEADER]> {
        let (page, within) = Self::place(at);
        let here = self.bytes.get(page * WAL_PAGE_SIZE + within..(page + 1) * WAL_PAGE_SIZE)?;
        if let Some(fixed) = here.first_chunk() {
            return Some(*fixed);
        }
        let there = self.bytes.get((page + 1) * WAL_PAGE_SIZE + SHORT_HEADER..)?;
        let mut fixed = [0; RECORD_HEADER];
        fixed.iter_mut().zip(here.iter().chain(there)).for_each(|(to, from)| *to = *from);
        Some(fixed)
    }
    /// Whether a page between says that what goes on there is not the rest of this record.
    fn is_overwritten(&self, from: usize, to: usize) -> bool {
        let pages = Self::place(from).0 + 1..=Self::place(to.min(self.len()).saturating_sub(1)).0;
        let headers = pages.filter_map(|page| self.bytes.get(page * WAL_PAGE_SIZE..)?.first_chunk().map(PageHeader::read));
        headers.into_iter().any(|header| header.overwrites_record())
    }
}
