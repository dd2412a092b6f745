//! A write-ahead log as PostgreSQL 18 writes it, of which every position and time is known.

use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timeline, Timestamp};

pub const SYSTEM: SystemId = SystemId::new(7_412_345_678_901_234_567);
pub const SEGMENT: u64 = 1 << 20;
const NOW: Timestamp = Timestamp::from_unix_micros(1_795_000_000_000_000);
const PAGE: u64 = 8192;
/// The number of the first segment.
const FIRST: u64 = 3;

pub fn size() -> SegmentSize {
    SegmentSize::from_bytes(SEGMENT).expect("a size")
}

pub fn timeline(id: u32) -> Timeline {
    Timeline::new(id).expect("a timeline")
}

pub fn second(second: i64) -> Timestamp {
    NOW.plus_micros(second * 1_000_000)
}

/// Begins with a segment, and only grows.
#[derive(Debug, Clone)]
pub struct Log {
    timeline: u32,
    pub bytes: Vec<u8>,
    previous: u64,
    /// Where each record begins, and where the next one may.
    pub records: Vec<(Lsn, Lsn)>,
}

impl Log {
    pub fn new() -> Self {
        Self { timeline: 1, bytes: Vec::new(), previous: 0, records: Vec::new() }
    }

    pub fn position(&self) -> Lsn {
        Lsn::from_bytes(FIRST * SEGMENT + self.bytes.len() as u64)
    }

    /// The same log up to here, and another timeline from here on, whose first record says when that was.
    pub fn promote(&self, timeline: u32, at: i64) -> Self {
        let mut promoted = Self { timeline, ..self.clone() };
        let times = [second(at).postgres_micros().to_le_bytes().to_vec(), timeline.to_le_bytes().to_vec(), self.timeline.to_le_bytes().to_vec()];
        promoted.record(0, 0x90, &times.concat());
        promoted
    }

    /// A commit at this second, in a record with so many bytes more than it needs.
    pub fn commit(&mut self, at: i64, more: usize) -> (Lsn, Lsn) {
        let mut data = second(at).postgres_micros().to_le_bytes().to_vec();
        data.resize(8 + more, 5);
        self.record(1, 0, &data)
    }

    /// A restore point of this name.
    pub fn point(&mut self, name: &str, at: i64) -> (Lsn, Lsn) {
        let mut data = second(at).postgres_micros().to_le_bytes().to_vec();
        data.extend(name.as_bytes());
        data.resize(8 + 64, 0);
        self.record(0, 0x70, &data)
    }

    /// A record that says nothing, with so many bytes of data.
    pub fn ordinary(&mut self, bytes: usize) -> (Lsn, Lsn) {
        self.record(10, 0, &vec![1; bytes])
    }

    /// Ordinary records up to so many bytes before the end of the segment under way.
    pub fn fill(&mut self, before: u64) {
        let end = (self.position().bytes() / SEGMENT + 1) * SEGMENT;
        while end - self.position().bytes() > before + 2000 {
            self.ordinary(1000);
        }
    }

    /// Ordinary records until the segment under way is whole, the last of which reaches into the next.
    pub fn finish_segment(&mut self) {
        let number = self.position().bytes() / SEGMENT;
        while self.position().bytes() / SEGMENT == number {
            self.ordinary(3000);
        }
    }

    /// A switch, then a page that is begun and nothing more, in zeros to the end of its segment.
    pub fn switch_and_begin(&mut self) {
        self.record(0, 0x40, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT as usize), 0);
        self.begin_page(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT as usize), 0);
    }

    /// The whole segments from the one that holds `from` on: name and bytes.
    pub fn segments(&self, from: Lsn) -> Vec<(SegmentName, &[u8])> {
        let whole = self.bytes.chunks_exact(SEGMENT as usize).enumerate();
        let named = whole.map(|(at, bytes)| (SegmentName::numbered(FIRST + at as u64, timeline(self.timeline), size()), bytes));
        named.filter(|(name, _)| name.end(size()) > from).collect()
    }

    fn record(&mut self, rmgr: u8, info: u8, data: &[u8]) -> (Lsn, Lsn) {
        if self.position().bytes().is_multiple_of(PAGE) {
            self.begin_page(0);
        }
        let start = self.position();
        let mut body = vec![254];
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(data);
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(9u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, rmgr, 0, 0]);
        record.extend(crc32c::crc32c_append(crc32c::crc32c(&body), &record).to_le_bytes());
        record.extend(body);
        self.previous = start.bytes();
        self.write(&record);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.records.push((start, self.position()));
        (start, self.position())
    }

    fn write(&mut self, mut record: &[u8]) {
        loop {
            let room = (PAGE - self.position().bytes() % PAGE) as usize;
            let (here, after) = record.split_at(record.len().min(room));
            self.bytes.extend(here);
            record = after;
            if record.is_empty() {
                return;
            }
            self.begin_page(record.len() as u32);
        }
    }

    fn begin_page(&mut self, rest: u32) {
        let address = self.position().bytes();
        let is_long = address.is_multiple_of(SEGMENT);
        let info = u16::from(rest != 0) | if is_long { 2 } else { 0 };
        self.bytes.extend(0xD118u16.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(u64::from(rest).to_le_bytes());
        if is_long {
            self.bytes.extend(SYSTEM.id().to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }
}
