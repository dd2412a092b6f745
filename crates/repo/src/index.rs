//! The index over the stored log: what each segment holds, so that questions are answered without reading segments.

use crate::wal::beside;
use crate::{Reader, RepoError, Writer, document, layout};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use seal::{Compression, Digest, ObjectKind, Protection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use store::{Created, ObjectPath, StoreError};
use terms::{Lsn, SegmentName, SegmentSize, SystemId, Timeline, Timestamp};

/// How many batches are fetched at once.
const FETCHES: usize = 16;
/// How many batches over the same segments may say different things.
const VERSIONS_MAX: u32 = 1000;

/// What is known of one stored segment. A record belongs to the segment in which it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Its name tells the timeline, too.
    pub segment: SegmentName,
    /// Bytes of the stored object, as a listing shows them.
    pub bytes_stored: u64,
    /// Of the segment's plain bytes, by [`Reader::digester`].
    pub digest: Digest,
    /// Where the first record begins that begins in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_record: Option<Lsn>,
    /// How far the log in it is valid: the segment's own end unless it ends inside.
    pub end: Lsn,
    /// The earliest end of a transaction (commit or abort) among its records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_end: Option<Timestamp>,
    /// The latest one; the stamps are not in the order of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_end: Option<Timestamp>,
    /// Those whose records begin in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<IndexedPoint>,
    /// A record that begins here and was not seen whole: its CRC was not checked, and it may be one of those above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Lsn>,
    /// `None` when nothing is known to be wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<IndexedDamage>,
}

/// A restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPoint {
    /// As the server's user chose it; several points may have the same.
    pub name: String,
    /// The position after its record.
    pub end: Lsn,
    /// When it was made, by the server's clock.
    pub time: Timestamp,
}

/// From where on a segment cannot be replayed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedDamage {
    /// Replay reaches this position and no further.
    pub at: Lsn,
    /// In the words of docs/format.md, or of the error by which it did not open.
    pub reason: String,
}

impl IndexEntry {
    /// Whether the log goes on to the segment's end, and everything that begins in it is known and was checked.
    pub fn is_whole(&self, size: SegmentSize) -> bool {
        self.damaged.is_none() && self.open.is_none() && self.end >= self.segment.end(size)
    }
}

/// What the index says, all batches merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalIndex {
    entries: BTreeMap<SegmentName, (IndexEntry, Timestamp)>,
    unreadable: Vec<(String, String)>,
}

impl WalIndex {
    /// Adds what was found out at `made`. Of two entries for a segment the one stays that knows all of it, then the later one.
    pub fn add(&mut self, entry: IndexEntry, made: Timestamp) {
        let rank = |entry: &IndexEntry, made: Timestamp| (entry.open.is_none(), made, entry.damaged.is_some());
        match self.entries.get(&entry.segment) {
            Some((known, then)) if rank(known, *then) >= rank(&entry, made) => {}
            _ => drop(self.entries.insert(entry.segment, (entry, made))),
        }
    }
    /// What is known of this segment.
    pub fn entry(&self, segment: SegmentName) -> Option<&IndexEntry> {
        self.entries.get(&segment).map(|(entry, _)| entry)
    }
    /// Every entry, by timeline and position.
    pub fn entries(&self) -> impl Iterator<Item = &IndexEntry> {
        self.entries.values().map(|(entry, _)| entry)
    }
    /// Batches that could not be read, and why: path, reason. What they said is not known.
    pub fn unreadable(&self) -> &[(String, String)] {
        &self.unreadable
    }
    /// The latest end of a transaction in whatever is indexed.
    pub fn latest_end(&self) -> Option<Timestamp> {
        self.entries().filter_map(|entry| entry.max_end).max()
    }
    /// Those of `segments` that are not indexed.
    pub fn without(&self, segments: impl IntoIterator<Item = SegmentName>) -> Vec<SegmentName> {
        segments.into_iter().filter(|segment| !self.entries.contains_key(segment)).collect()
    }
}

/// A line of a batch.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Header(Header),
    Entry(Box<IndexEntry>),
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    system_id: SystemId,
    timeline: Timeline,
    made: Timestamp,
}

impl Writer {
    /// Stores entries as one batch for each timeline among them, made at `now`; the bytes that it took: none when batches under the
    /// same names say the same. Where one says something else, or cannot be read, another is stored beside it.
    pub async fn put_index(&self, system: SystemId, entries: &[IndexEntry], protection: &Protection, now: Timestamp) -> Result<u64, RepoError> {
        let mut timelines: BTreeMap<Timeline, BTreeMap<SegmentName, &IndexEntry>> = BTreeMap::new();
        for entry in entries {
            timelines.entry(entry.segment.timeline()).or_default().insert(entry.segment, entry);
        }
        let mut stored = 0;
        for (timeline, entries) in timelines {
            stored += self.put_batch(system, timeline, &entries, protection, now).await?;
        }
        Ok(stored)
    }

    async fn put_batch(
        &self,
        system: SystemId,
        timeline: Timeline,
        entries: &BTreeMap<SegmentName, &IndexEntry>,
        protection: &Protection,
        now: Timestamp,
    ) -> Result<u64, RepoError> {
        let (Some(first), Some(last)) = (entries.keys().next(), entries.keys().next_back()) else { return Ok(0) };
        let plain = print(system, timeline, entries, now)?;
        for number in 1..=VERSIONS_MAX {
            let path = layout::wal_index(system, *first, *last, number);
            let object = self.seal_object(protection, ObjectKind::WalIndex, &path);
            let sealed = seal::seal_whole(object, Compression::default(), &plain)?;
            let bytes_stored = sealed.len() as u64;
            if self.store.put_new(&path, Bytes::from(sealed)).await? == Created::New {
                return Ok(bytes_stored);
            }
            let says_the_same = match self.reader().batch(system, &path).await {
                Ok(batch) => entries.iter().all(|(segment, entry)| batch.entry(*segment) == Some(*entry)),
                Err(RepoError::Store(e)) if !matches!(e, StoreError::Missing { .. } | StoreError::Archived { .. }) => return Err(e.into()),
                Err(_) => false,
            };
            if says_the_same {
                return Ok(0);
            }
        }
        Err(RepoError::Contended { path: layout::wal_index(system, *first, *last, 1).to_string() })
    }
}

impl Reader {
    /// What the index says of these timelines, all batches merged. A batch that is damaged says nothing, and is told of; only
    /// the store's own errors are errors.
    pub async fn index(&self, system: SystemId, timelines: &[Timeline]) -> Result<WalIndex, RepoError> {
        self.index_where(system, timelines, |_, _| true).await
    }

    /// What the index says of these segments; batches that speak of others only are not fetched.
    pub async fn index_of(&self, system: SystemId, segments: &[SegmentName]) -> Result<WalIndex, RepoError> {
        let mut spans: BTreeMap<Timeline, (SegmentName, SegmentName)> = BTreeMap::new();
        for segment in segments {
            let span = spans.entry(segment.timeline()).or_insert((*segment, *segment));
            *span = (span.0.min(*segment), span.1.max(*segment));
        }
        let timelines: Vec<Timeline> = spans.keys().copied().collect();
        let overlaps = |first: SegmentName, last| spans.get(&first.timeline()).is_some_and(|span| first <= span.1 && span.0 <= last);
        self.index_where(system, &timelines, overlaps).await
    }

    async fn index_where(
        &self,
        system: SystemId,
        timelines: &[Timeline],
        wanted: impl Fn(SegmentName, SegmentName) -> bool,
    ) -> Result<WalIndex, RepoError> {
        let mut paths: Vec<ObjectPath> = Vec::new();
        for timeline in timelines {
            let folder = layout::wal_index_folder(system, *timeline);
            let mut listing = self.store.list(&folder, None);
            while let Some(object) = listing.try_next().await? {
                if layout::wal_index_span(&object.path).is_some_and(|(first, last)| wanted(first, last)) {
                    paths.push(object.path);
                }
            }
        }
        let mut merged = WalIndex::default();
        let mut batches = futures::stream::iter(paths).map(|path| async { (self.batch(system, &path).await, path) }).buffer_unordered(FETCHES);
        while let Some((batch, path)) = batches.next().await {
            match batch {
                Ok(batch) => batch.entries.into_values().for_each(|(entry, made)| merged.add(entry, made)),
                // Removed since it was listed.
                Err(RepoError::Store(StoreError::Missing { path: missing, .. })) if missing == path.as_str() => {}
                // Another object that is missing is the key that a damaged header seems to name.
                Err(RepoError::Store(e)) if !matches!(e, StoreError::Missing { .. } | StoreError::Archived { .. }) => return Err(e.into()),
                Err(e) => merged.unreadable.push((path.to_string(), terms::Explain::detail(&e))),
            }
        }
        merged.unreadable.sort();
        Ok(merged)
    }

    pub(crate) async fn batch(&self, system: SystemId, path: &ObjectPath) -> Result<WalIndex, RepoError> {
        let sealed = self.store.get(path).await?;
        let object = self.open_object(path, ObjectKind::WalIndex, &sealed).await?;
        let plain = beside(move || seal::open_whole(object, &sealed)).await?.map_err(RepoError::object(path))?;
        parse(system, path, &plain)
    }
}

fn print(system: SystemId, timeline: Timeline, entries: &BTreeMap<SegmentName, &IndexEntry>, made: Timestamp) -> Result<Vec<u8>, RepoError> {
    let header = Line::Header(Header { format: document::FORMAT, system_id: system, timeline, made });
    let mut plain = Vec::new();
    for line in std::iter::once(header).chain(entries.values().map(|entry| Line::Entry(Box::new((*entry).clone())))) {
        serde_json::to_writer(&mut plain, &line).map_err(|e| RepoError::Bug(e.to_string()))?;
        plain.push(b'\n');
    }
    Ok(plain)
}

fn parse(system: SystemId, path: &ObjectPath, plain: &[u8]) -> Result<WalIndex, RepoError> {
    let damaged = |why: &str| RepoError::Document { path: path.to_string(), why: why.to_owned() };
    let (first, last) = layout::wal_index_span(path).ok_or_else(|| damaged("its name is not that of a batch"))?;
    let mut lines = plain.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\n").ok_or_else(|| damaged("its last line is cut off"))?;
        serde_json::from_slice::<Line>(line).map_err(|e| damaged(&e.to_string()))
    });
    let Some(Line::Header(header)) = lines.next().transpose()? else { return Err(damaged("it does not begin with a header")) };
    document::refuse_newer(path, header.format)?;
    if header.system_id != system || header.timeline != first.timeline() {
        return Err(damaged("it speaks of another cluster or timeline"));
    }
    let mut batch = WalIndex::default();
    for line in lines {
        match line? {
            Line::Entry(entry) if (first..=last).contains(&entry.segment) => batch.add(*entry, header.made),
            Line::Entry(_) => return Err(damaged("it speaks of segments that its name does not name")),
            Line::Header(_) => return Err(damaged("it has two headers")),
        }
    }
    Ok(batch)
}
