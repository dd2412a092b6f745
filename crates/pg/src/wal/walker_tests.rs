//! The walker over logs made here, record by record, with everything that a real log seldom shows.

use super::header::WAL_PAGE_SIZE;
use super::hop::may_create_tablespace;
use super::record::{Record, RecordKind};
use super::walker::{End, EndReason, RecordWalker, WalSource};
use proptest::prelude::*;
use terms::{Lsn, SegmentSize, SystemId, Timeline};

pub(super) const SEGMENT: u64 = 1 << 20;
pub(super) const START: u64 = 3 * SEGMENT;
pub(super) const PAGE: u64 = WAL_PAGE_SIZE as u64;

pub(super) fn source() -> WalSource {
    let segment_size = SegmentSize::from_bytes(SEGMENT).unwrap();
    WalSource { major: 17, system_id: SystemId::new(77), timeline: Timeline::FIRST, segment_size }
}

/// Writes a log as PostgreSQL does, from the beginning of a segment.
#[derive(Default)]
pub(super) struct Log {
    pub(super) bytes: Vec<u8>,
    pub(super) previous: u64,
    /// (start, length) of each record.
    pub(super) records: Vec<(u64, u32)>,
}

impl Log {
    pub(super) fn position(&self) -> u64 {
        START + self.bytes.len() as u64
    }
    pub(super) fn begin_page(&mut self, rest: u32, mut info: u16) {
        let address = self.position();
        let long = address.is_multiple_of(SEGMENT);
        info |= u16::from(rest != 0) | if long { 2 } else { 0 };
        self.bytes.extend(0xD116u16.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(u64::from(rest).to_le_bytes());
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }
    fn room(&self) -> usize {
        (PAGE - self.position() % PAGE) as usize
    }
    pub(super) fn record(&mut self, rmgr: u8, info: u8, data: &[u8]) {
        if self.position().is_multiple_of(PAGE) {
            self.begin_page(0, 0);
        }
        let start = self.position();
        let record = record(self.previous, rmgr, info, data);
        self.records.push((start, record.len() as u32));
        self.previous = start;
        self.write(&record);
        while !self.position().is_multiple_of(8) {
            self.bytes.push(0);
        }
    }
    fn write(&mut self, mut record: &[u8]) {
        loop {
            let (here, after) = record.split_at(record.len().min(self.room()));
            self.bytes.extend(here);
            record = after;
            if record.is_empty() {
                return;
            }
            self.begin_page(record.len() as u32, 0);
        }
    }
    pub(super) fn fill(&mut self, to: u64) {
        self.bytes.resize((to - START) as usize, 0);
    }
}

fn record(previous: u64, rmgr: u8, info: u8, data: &[u8]) -> Vec<u8> {
    let mut body = vec![254];
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    let mut record = Vec::new();
    record.extend((24 + body.len() as u32).to_le_bytes());
    record.extend(9u32.to_le_bytes());
    record.extend(previous.to_le_bytes());
    record.extend([info, rmgr, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
    record.extend(crc.to_le_bytes());
    record.extend(body);
    record
}

fn walk_in(mut walker: RecordWalker, bytes: &[u8], piece: usize) -> (Vec<Record>, End) {
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        walker.feed(piece, |record| found.push(record));
    }
    (found, walker.end())
}

fn walk(bytes: &[u8]) -> (Vec<Record>, End) {
    walk_in(RecordWalker::in_segment(source(), Lsn::from_bytes(START)), bytes, usize::MAX)
}

fn places(records: &[Record]) -> Vec<(u64, u32)> {
    records.iter().map(|r| (r.start.bytes(), r.length)).collect()
}

pub(super) fn commits(sizes: &[usize]) -> Log {
    let mut log = Log::default();
    for size in sizes {
        log.record(1, 0, &vec![3; *size + 8]);
    }
    log
}

#[test]
fn records_of_every_size_are_found_on_pages_and_across_segments() {
    let sizes: Vec<usize> = (0..400).map(|i| i * i % 9001).chain([3 << 20, 5, 8192 * 3]).collect();
    let log = commits(&sizes);
    let (found, end) = walk(&log.bytes);
    assert_eq!(places(&found), log.records);
    assert_eq!(end, End { at: Lsn::from_bytes(log.position()), reason: EndReason::NeedMoreData });
    assert!(found.iter().all(|r| matches!(r.kind, RecordKind::Commit { .. }) && r.xid == 9));
    assert!(found.windows(2).all(|two| two[0].end <= two[1].start), "each begins after the one before");
}

#[test]
fn a_walk_may_begin_at_any_record() {
    let log = commits(&(0..900).map(|i| i * 37 % 5000).collect::<Vec<_>>());
    for (index, (start, _)) in log.records.iter().enumerate().step_by(17) {
        let walker = RecordWalker::at(source(), Lsn::from_bytes(*start));
        let skip = (walker.position().bytes() - START) as usize;
        assert_eq!(places(&walk_in(walker, &log.bytes[skip..], usize::MAX).0), log.records[index..]);
    }
    // The first record that begins in the second segment lies behind the rest of one from the first.
    let second = START + SEGMENT;
    let walker = RecordWalker::in_segment(source(), Lsn::from_bytes(second + 5));
    let found = walk_in(walker, &log.bytes[SEGMENT as usize..], usize::MAX).0;
    assert_eq!(places(&found), log.records.iter().copied().filter(|(start, _)| *start >= second).collect::<Vec<_>>());
}

#[test]
fn after_a_switch_the_log_goes_on_in_the_next_segment_whatever_is_between() {
    let mut log = commits(&[100]);
    log.record(0, 0x40, &[]);
    log.bytes.extend([0xAA; 999]);
    log.fill(START + SEGMENT);
    log.record(1, 0, &[0; 8]);
    let (found, end) = walk(&log.bytes);
    assert_eq!(places(&found), log.records);
    assert_eq!((&found[1].kind, found[1].end.bytes()), (&RecordKind::Switch, START + SEGMENT));
    assert_eq!(end.reason, EndReason::NeedMoreData);
}

#[test]
fn a_record_that_was_never_finished_is_passed_over_where_the_server_says_so() {
    let mut log = commits(&[100, 20_000]);
    let (torn, _) = log.records.pop().unwrap();
    log.previous = log.records[0].0;
    log.fill((torn / PAGE + 1) * PAGE);
    log.begin_page(0, 8);
    log.record(0, 0xD0, &[&torn.to_le_bytes()[..], &[0; 8]].concat());
    log.record(1, 0x20, &[0; 8]);
    let (found, _) = walk(&log.bytes);
    assert_eq!(places(&found), log.records);
    assert_eq!(found[1].kind, RecordKind::OverwriteContrecord { overwritten: Lsn::from_bytes(torn) });
}

#[test]
fn the_log_ends_where_its_bytes_stop_making_sense() {
    let log = commits(&[100, 50, 20_000, 10]);
    let ends = |bytes: &[u8], record: usize, reason: EndReason| {
        let (found, end) = walk(bytes);
        assert_eq!(places(&found), log.records[..record], "{reason:?}");
        assert_eq!(end, End { at: found.last().map_or(end.at, |r| r.end), reason });
    };
    let at = |index: usize| (log.records[index].0 - START) as usize;
    let mut zeros = log.bytes.clone();
    zeros.extend([0; 20_000]);
    ends(&zeros, 4, EndReason::ZeroTail);
    zeros[at(2)..].fill(0);
    ends(&zeros, 2, EndReason::ZeroTail);
    zeros[8192..].fill(0);
    ends(&zeros, 2, EndReason::ZeroTail);
    let changed = |offset: usize| {
        let mut bytes = log.bytes.clone();
        bytes[offset] ^= 1;
        bytes
    };
    ends(&changed(at(1) + 40), 1, EndReason::BadCrc);
    ends(&changed(at(1) + 18), 1, EndReason::BadCrc);
    ends(&changed(at(1) + 23), 1, EndReason::BadCrc);
    ends(&changed(at(3) + 8), 3, EndReason::BadPrev);
    ends(&changed(at(2) + 3), 2, EndReason::PageMismatch);
    for page_field in [0, 2, 4, 8, 16] {
        ends(&changed(8192 + page_field), 2, EndReason::PageMismatch);
    }
    for long_field in [24, 32, 36] {
        ends(&changed(long_field), 0, EndReason::PageMismatch);
    }
    let mut other = log.bytes.clone();
    other[at(1) + 17] = 99;
    ends(&other, 1, EndReason::BadHeader);
    ends(&log.bytes[..at(3) + 30], 3, EndReason::NeedMoreData);
    ends(&log.bytes[..10], 0, EndReason::NeedMoreData);
}

#[test]
fn no_version_but_its_own_is_read() {
    let log = commits(&[1]);
    for major in [0, 14, 15, 16, 18, 99] {
        let walker = RecordWalker::in_segment(WalSource { major, ..source() }, Lsn::from_bytes(START));
        assert_eq!(walk_in(walker, &log.bytes, 1000).1.reason, EndReason::PageMismatch);
    }
}

/// `cargo test --release -p pg wal_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn wal_speed() {
    for size in [60, 150, 1000, 8000] {
        let log = commits(&vec![size; (128 << 20) / (size + 40)]);
        let mut best = f64::MAX;
        for _ in 0..10 {
            let begun = std::time::Instant::now();
            let mut count = 0;
            let mut walker = RecordWalker::in_segment(source(), Lsn::from_bytes(START));
            for piece in log.bytes.chunks(1 << 20) {
                walker.feed(piece, |_| count += 1);
            }
            assert_eq!(count, log.records.len());
            best = best.min(begun.elapsed().as_secs_f64());
        }
        println!("records of {size} bytes and 37: {:.2} GB/s", log.bytes.len() as f64 / best / 1e9);
    }
}

proptest! {
    #[test]
    fn the_pieces_in_which_it_comes_change_nothing(sizes in prop::collection::vec(0usize..20_000, 1..20), piece in 1usize..9000) {
        let log = commits(&sizes);
        let walker = RecordWalker::in_segment(source(), Lsn::from_bytes(START));
        let (found, end) = walk_in(walker, &log.bytes, piece);
        prop_assert_eq!(places(&found), log.records.clone());
        prop_assert_eq!((found, end), walk(&log.bytes));
    }

    #[test]
    fn a_flipped_bit_in_a_record_ends_the_log_before_it(seed: u64, bit in 0u8..8) {
        let log = commits(&[10, 3000, 200, 9000, 7]);
        let (start, length) = log.records[(seed % 5) as usize];
        let mut bytes = log.bytes.clone();
        // Within its first page, so that what is hit is the record and not a page header.
        let reach = u64::from(length).min(PAGE - start % PAGE);
        bytes[(start - START + seed / 5 % reach) as usize] ^= 1 << bit;
        let (found, end) = walk(&bytes);
        prop_assert_eq!(places(&found), log.records[..(seed % 5) as usize].to_vec());
        prop_assert!(end.at.bytes() <= start);
    }

    #[test]
    fn garbage_never_panics(noise in prop::collection::vec(any::<u8>(), 1..3000), at in 0usize..40_000, start: u64, piece in 1usize..5000) {
        let mut log = commits(&[100, 20_000, 3, 9000]).bytes;
        let at = at.min(log.len());
        let reach = noise.len().min(log.len() - at);
        log[at..at + reach].copy_from_slice(&noise[..reach]);
        walk_in(RecordWalker::in_segment(source(), Lsn::from_bytes(START)), &log, piece);
        for first in [start, START, START + start % 40_000, u64::MAX - start % 10_000] {
            walk_in(RecordWalker::at(source(), Lsn::from_bytes(first)), &log, piece);
            walk_in(RecordWalker::in_segment(source(), Lsn::from_bytes(first)), &noise, piece);
        }
    }
}

proptest! {
    /// A log in which tablespaces are created here and there, also across pages and segments.
    #[test]
    fn no_segment_in_which_a_tablespace_is_created_is_hopped_over(
        sizes in prop::collection::vec((0usize..40_000, 0u8..12), 20..200),
    ) {
        let mut log = Log::default();
        for (size, kind) in sizes {
            match kind {
                0 => log.record(5, 0x00, &[&16_400u32.to_le_bytes()[..], b"/srv/fast/", &vec![b'x'; size % 900], b"\0"].concat()),
                1 => log.record(5, 0x10, &16_400u32.to_le_bytes()),
                _ => log.record(10, 0x00, &vec![7; size]),
            }
        }
        let whole = log.bytes.len() as u64 / SEGMENT;
        log.bytes.truncate((whole * SEGMENT) as usize);
        let (found, _) = walk(&log.bytes);
        for (number, segment) in log.bytes.chunks(SEGMENT as usize).enumerate() {
            let begin = START + number as u64 * SEGMENT;
            let creates = found.iter().any(|record| {
                (begin..begin + SEGMENT).contains(&record.start.bytes()) && matches!(&record.kind, RecordKind::TablespaceCreated { oid: 16_400, location }
                    if location.starts_with("/srv/fast"))
            });
            let cut = log.records.iter().any(|(start, length)| {
                let end = begin + SEGMENT;
                (begin..end).contains(start) && (start + 24 > end || (start + u64::from(*length) > end && log.bytes.len() as u64 + START == end))
            });
            let may = may_create_tablespace(segment);
            prop_assert!(may || !creates, "segment {number}");
            prop_assert!(creates || cut || !may, "segment {number} is suspected");
        }
    }
}
