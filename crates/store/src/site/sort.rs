//! Sorts what does not fit into memory: sorted runs go to a file without a name and come back as one.
//!
//! Written here because what the listings need is small: `extsort` keeps its runs in named files, which a killed process leaves behind,
//! and wants its records in serde's hands and on threads of its own.

use crate::token::token;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// A run. Nine listings at once, each of two sites, stay below 100 MiB with it.
const RUN_BYTES: usize = 4 << 20;
/// The buffers in which all runs of one sorter are read again.
const BUFFERS_BYTES: usize = 4 << 20;
const BUFFER_BYTES_MIN: usize = 4 << 10;
/// What a record takes beside its texts: itself, and what the allocator adds.
const RECORD_BYTES: usize = 192;

/// What can be sorted.
pub(super) trait Record: Sized {
    fn order(&self, other: &Self) -> Ordering;
    /// Bytes of its texts.
    fn text_bytes(&self) -> usize;
    fn write(&self, to: &mut Vec<u8>);
    /// `None` for what [`Record::write`] never wrote.
    fn read(from: &[u8]) -> Option<Self>;
}

/// Takes records in any order. What is equal stays as it came.
pub(super) struct Sorter<T> {
    held: Vec<T>,
    held_bytes: usize,
    run_bytes: usize,
    spilled: Option<Spilled<T>>,
}

struct Spilled<T> {
    file: File,
    /// Where each begins and ends.
    runs: Vec<(u64, u64)>,
    /// The last record of the last run: one that goes on from there becomes part of it, so that what comes in order is a single run.
    last: Option<T>,
}

impl<T: Record> Sorter<T> {
    pub(super) fn new() -> Self {
        Self { held: Vec::new(), held_bytes: 0, run_bytes: RUN_BYTES, spilled: None }
    }

    pub(super) fn push(&mut self, record: T) -> io::Result<()> {
        self.held_bytes += record.text_bytes() + RECORD_BYTES;
        self.held.push(record);
        if self.held_bytes >= self.run_bytes { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.held.sort_by(T::order);
        let mut bytes = Vec::with_capacity(self.held_bytes);
        for record in &self.held {
            let at = bytes.len();
            bytes.extend_from_slice(&[0; 4]);
            record.write(&mut bytes);
            let length = (bytes.len() - at - 4) as u32;
            bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled { file: nameless()?, runs: Vec::new(), last: None }),
        };
        let from = spilled.runs.last().map_or(0, |(_, end)| *end);
        spilled.file.write_all_at(&bytes, from)?;
        let end = from + bytes.len() as u64;
        let goes_on = spilled.last.as_ref().zip(self.held.first()).is_some_and(|(last, first)| last.order(first).is_le());
        match spilled.runs.last_mut() {
            Some(run) if goes_on => run.1 = end,
            _ => spilled.runs.push((from, end)),
        }
        spilled.last = self.held.pop();
        self.held.clear();
        self.held_bytes = 0;
        Ok(())
    }

    /// All of them, in order.
    pub(super) fn finish(mut self) -> io::Result<Sorted<T>> {
        if self.spilled.is_some() && !self.held.is_empty() {
            self.spill()?;
        }
        let Some(Spilled { file, runs, .. }) = self.spilled else {
            self.held.sort_by(T::order);
            return Ok(Sorted::Held(self.held.into_iter()));
        };
        let buffer_bytes = (BUFFERS_BYTES / runs.len()).max(BUFFER_BYTES_MIN);
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (number, (at, end)) in runs.into_iter().enumerate() {
            let mut run = Run { at, end, buffer: Vec::new(), used: 0, buffer_bytes };
            if let Some(record) = run.next(&file)? {
                heads.push(Head { record, number, run });
            }
        }
        Ok(Sorted::Spilled { file, heads })
    }
}

/// See [`Sorter::finish`].
pub(super) enum Sorted<T> {
    Held(std::vec::IntoIter<T>),
    Spilled { file: File, heads: BinaryHeap<Head<T>> },
}

impl<T: Record> Iterator for Sorted<T> {
    type Item = io::Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Held(held) => held.next().map(Ok),
            Self::Spilled { file, heads } => {
                let Head { record, number, mut run } = heads.pop()?;
                match run.next(file) {
                    Ok(Some(record)) => heads.push(Head { record, number, run }),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
                Some(Ok(record))
            }
        }
    }
}

/// The next record of a run. The greatest of the heap is the one that comes first.
pub(super) struct Head<T> {
    record: T,
    number: usize,
    run: Run,
}

impl<T: Record> Ord for Head<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.record.order(&other.record).then(self.number.cmp(&other.number)).reverse()
    }
}

impl<T: Record> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Record> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Record> Eq for Head<T> {}

struct Run {
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
    buffer_bytes: usize,
}

impl Run {
    fn next<T: Record>(&mut self, file: &File) -> io::Result<Option<T>> {
        if !self.has(file, 4)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.take(4).try_into().unwrap_or_default()) as usize;
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "what was sorted comes back broken");
        if !self.has(file, length)? {
            return Err(broken());
        }
        T::read(self.take(length)).ok_or_else(broken).map(Some)
    }

    fn take(&mut self, bytes: usize) -> &[u8] {
        self.used += bytes;
        &self.buffer[self.used - bytes..self.used]
    }

    /// Whether there are so many bytes more; they are in the buffer then.
    fn has(&mut self, file: &File, bytes: usize) -> io::Result<bool> {
        let left = self.buffer.len() - self.used;
        if left >= bytes {
            return Ok(true);
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let more = (self.end - self.at).min(self.buffer_bytes.max(bytes - left) as u64);
        self.buffer.resize(left + more as usize, 0);
        file.read_exact_at(&mut self.buffer[left..], self.at)?;
        self.at += more;
        Ok(self.buffer.len() >= bytes)
    }
}

/// A file that is gone with whoever has it open. In `/var/tmp` unless TMPDIR names another place: `/tmp` may itself be memory.
fn nameless() -> io::Result<File> {
    let places = std::env::var_os("TMPDIR").map(PathBuf::from).into_iter().chain(["/var/tmp".into(), "/tmp".into()]);
    let mut failed = None;
    for place in places {
        let path = place.join(format!(".bowline-sort-{}", token()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(error) => failed = failed.or(Some(io::Error::new(error.kind(), format!("{}: {error}", place.display())))),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted by its first part.
    impl Record for (String, u32) {
        fn order(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0)
        }
        fn text_bytes(&self) -> usize {
            self.0.len()
        }
        fn write(&self, to: &mut Vec<u8>) {
            to.extend_from_slice(&self.1.to_le_bytes());
            to.extend_from_slice(self.0.as_bytes());
        }
        fn read(from: &[u8]) -> Option<Self> {
            let (number, text) = from.split_first_chunk()?;
            Some((String::from_utf8(text.to_vec()).ok()?, u32::from_le_bytes(*number)))
        }
    }

    fn sorted(all: &[(String, u32)], run_bytes: usize) -> (Vec<(String, u32)>, usize) {
        let mut sorter = Sorter { run_bytes, ..Sorter::new() };
        all.iter().for_each(|record| sorter.push(record.clone()).unwrap());
        let runs = sorter.spilled.as_ref().map_or(0, |spilled| spilled.runs.len());
        (sorter.finish().unwrap().map(Result::unwrap).collect(), runs)
    }

    #[test]
    fn what_goes_through_a_file_comes_back_as_a_stable_sort_in_memory_has_it() {
        let mix = |number: u32| number.wrapping_mul(2_654_435_761) >> 16;
        // Many equal ones, empty ones, and some that are longer than a buffer.
        let text = |number: u32| format!("{}", mix(number) % 700).repeat((mix(number) % 5) as usize * if number % 1000 == 7 { 4000 } else { 1 });
        let all: Vec<_> = (0..20_000).map(|number| (text(number), number)).collect();
        let mut wanted = all.clone();
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        for (run_bytes, has_runs) in [(2_000, true), (70_000, true), (usize::MAX, false)] {
            let (found, runs) = sorted(&all, run_bytes);
            assert!(found == wanted && (runs > 1) == has_runs, "{run_bytes}: {runs} runs");
        }
        assert_eq!(sorted(&[], 1).0, []);
    }

    #[test]
    fn what_comes_in_order_is_one_run_however_long() {
        let all: Vec<_> = (0..5_000).map(|number| (format!("{number:09}"), number)).collect();
        assert_eq!(sorted(&all, 10_000), (all, 1));
    }
}
