//! What a fuzzer hardly ever guesses is written in: checksums, and where things say they are. Behind those begin the readers.

use aws_lc_rs::digest::{SHA256, digest};
use pg::wal::{PageHeader, WAL_PAGE_SIZE};
use seal::{FRAME_HEADER_BYTES, HEADER_BYTES, RepositoryId};
use std::ops::Range;

/// The frames of a plain object, whose header the bytes begin with, get their numbers and checksums (docs/format.md) as far as their
/// lengths can be true. A number of 0xFF… stays.
pub fn frames(bytes: &mut [u8], repository: &RepositoryId, path: &str) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return };
    let context = digest(&SHA256, &[&*header, repository.bytes(), path.as_bytes()].concat());
    for number in 0u32.. {
        let Some(stored) = word(rest, 0) else { return };
        let Some((frame, after)) = rest.split_at_mut_checked(FRAME_HEADER_BYTES + stored as usize) else { return };
        let Some(tag_at) = frame.len().checked_sub(16).filter(|at| *at >= FRAME_HEADER_BYTES) else { return };
        if frame[11] != u8::MAX {
            frame[8..12].copy_from_slice(&number.to_le_bytes());
        }
        let tag = digest(&SHA256, &[context.as_ref(), &frame[..tag_at]].concat());
        frame[tag_at..].copy_from_slice(&tag.as_ref()[..16]);
        rest = after;
    }
}

/// Pages of WAL, from a segment's beginning on, get the addresses that follow from the first page's, and each record its
/// predecessor and checksum (src/include/access/xlogrecord.h); pages in which one goes on say so. A page that says that what goes on
/// there is overwritten is believed.
pub fn wal(bytes: &mut [u8], segment_size: usize) {
    let Some(first) = bytes.first_chunk::<24>().map(PageHeader::read) else { return };
    let (magic, start) = (first.magic.to_le_bytes(), first.address.bytes() & (u64::MAX >> 1) & !(segment_size as u64 - 1));
    let Some(names) = bytes.get(SHORT_HEADER..LONG_HEADER).map(<[u8]>::to_vec) else { return };
    let log = Log { segment_size };
    for (number, page) in bytes.chunks_mut(WAL_PAGE_SIZE).enumerate().filter(|(_, page)| page.len() >= LONG_HEADER) {
        let at = number * WAL_PAGE_SIZE;
        let long = if log.header(at) == LONG_HEADER { HAS_LONG_HEADER } else { 0 };
        page[..2].copy_from_slice(&magic);
        page[2] = page[2] & IS_OVERWRITE | long;
        page[3] = 0;
        page[8..16].copy_from_slice(&(start + at as u64).to_le_bytes());
        if log.header(at) == LONG_HEADER {
            page[SHORT_HEADER..LONG_HEADER].copy_from_slice(&names);
        }
        page[16..20].fill(0);
    }
    // It may begin with the rest of a record.
    let rest = if first.continues_record() { first.rest as usize } else { 0 };
    let (mut at, mut previous) = (0, None);
    if (1..WAL_PAGE_SIZE - LONG_HEADER).contains(&rest) && bytes.len() > LONG_HEADER {
        bytes[2] |= CONTINUES;
        bytes[16..20].copy_from_slice(&(rest as u32).to_le_bytes());
        at = rest.next_multiple_of(8);
    }
    while log.place(at + RECORD_HEADER) <= bytes.len() {
        let fixed: Vec<usize> = (at..at + RECORD_HEADER).map(|n| log.place(n)).collect();
        let length = u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[fixed[n]])) as usize;
        if length < RECORD_HEADER {
            return;
        }
        let before = previous.map_or(u64::from(bytes[fixed[8]]), |place| start + place as u64);
        let mut set = |from: usize, value: &[u8]| fixed[from..].iter().zip(value).for_each(|(place, byte)| bytes[*place] = *byte);
        set(8, &before.to_le_bytes());
        let runs: Vec<_> = log.runs(at, at + length).take_while(|run| run.start < bytes.len()).collect();
        // Where it goes on, unless something else stands there.
        let mut seen = runs[0].len();
        for run in &runs[1..] {
            let page = run.start - run.start % WAL_PAGE_SIZE;
            if bytes[page + 2] & IS_OVERWRITE != 0 {
                break;
            }
            bytes[page + 2] |= CONTINUES;
            bytes[page + 16..page + 20].copy_from_slice(&((length - seen) as u32).to_le_bytes());
            seen += run.len();
        }
        if seen < length {
            at += seen;
            continue;
        }
        let over = |crc, from, to| log.runs(from, to).fold(crc, |crc, run| crc32c::crc32c_append(crc, &bytes[run.start..run.end.min(bytes.len())]));
        let crc = over(over(0, at + RECORD_HEADER, at + length), at, at + RECORD_HEADER - 4);
        let mut set = |from: usize, value: &[u8]| fixed[from..].iter().zip(value).for_each(|(place, byte)| bytes[*place] = *byte);
        set(RECORD_HEADER - 4, &crc.to_le_bytes());
        let is_switch = bytes[fixed[17]] == 0 && bytes[fixed[16]] & 0xF0 == 0x40;
        previous = Some(fixed[0]);
        at = (at + length).next_multiple_of(8);
        if is_switch {
            at = at.next_multiple_of(log.in_segment());
        }
    }
}

/// The pages in the second segment of a log, behind a record (XLOG_NOOP) that fills the first one and ends with the rest that they begin with.
pub fn behind(pages: &[u8], segment_size: usize) -> Vec<u8> {
    let rest = pages.first_chunk::<24>().map_or(0, |first| PageHeader::read(first).rest as usize % (WAL_PAGE_SIZE - LONG_HEADER));
    let length = Log { segment_size }.in_segment() + rest;
    let header = pages.get(..LONG_HEADER).unwrap_or_default();
    let mut filled = [header, &(length as u32).to_le_bytes(), &[0; 12], &[0x20]].concat();
    filled.resize(segment_size, 0);
    filled[2] &= !CONTINUES;
    filled.extend_from_slice(pages);
    filled
}

/// Pages of WAL without their headers, which lie at (src/include/access/xlog_internal.h) each page's beginning.
struct Log {
    segment_size: usize,
}

const RECORD_HEADER: usize = 24;
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
const CONTINUES: u8 = 1;
const HAS_LONG_HEADER: u8 = 2;
const IS_OVERWRITE: u8 = 8;

impl Log {
    /// Bytes of the header of the page at this place.
    fn header(&self, page: usize) -> usize {
        if page.is_multiple_of(self.segment_size) { LONG_HEADER } else { SHORT_HEADER }
    }
    /// Bytes of log in a segment.
    fn in_segment(&self) -> usize {
        self.segment_size - self.segment_size / WAL_PAGE_SIZE * SHORT_HEADER - (LONG_HEADER - SHORT_HEADER)
    }
    /// Where the log's byte of this number lies.
    fn place(&self, number: usize) -> usize {
        let (segment, within) = (number / self.in_segment(), number % self.in_segment());
        // As if the first page's header were short: then all pages are alike.
        let within = within + (LONG_HEADER - SHORT_HEADER);
        let (page, byte) = (within / (WAL_PAGE_SIZE - SHORT_HEADER), within % (WAL_PAGE_SIZE - SHORT_HEADER));
        segment * self.segment_size + page * WAL_PAGE_SIZE + SHORT_HEADER + byte
    }
    /// The places of the log's bytes from here to there, page by page.
    fn runs(&self, from: usize, to: usize) -> impl Iterator<Item = Range<usize>> {
        let mut at = from;
        std::iter::from_fn(move || {
            let place = (at < to).then(|| self.place(at))?;
            let length = (to - at).min(WAL_PAGE_SIZE - place % WAL_PAGE_SIZE);
            at += length;
            Some(place..place + length)
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}
